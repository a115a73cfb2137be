//! The documentation against the program: every option is described, every promise has its test, and
//! every message that is explained is one that the program can give.

use std::fs;
use std::path::Path;

use blobdir::backend::SCHEMES;
use blobdir::config::MOUNT_OPTIONS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder whose name ends so.
fn sources(folder: &Path, text: &mut String) {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a listed file").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&read(&path));
        }
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the tables of a page, row by row, without heads.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_row = |line: &&str| line.starts_with('|');
    page.lines().filter(is_row).map(|line| {
        let line = line.trim().trim_matches('|');
        line.split('|').map(str::trim).collect()
    })
}

#[test]
fn every_option_is_described() {
    let page = read("docs/configuration.md");
    let described: Vec<&str> = rows(&page).filter_map(|row| quoted(row[0]).next()).collect();
    let options = SCHEMES.iter().flat_map(|scheme| scheme.options).chain(MOUNT_OPTIONS);
    for option in options {
        let shown = match option.value {
            Some(value) => format!("{}={value}", option.name),
            None => option.name.to_owned(),
        };
        assert!(
            described.contains(&shown.as_str()),
            "docs/configuration.md has no row for {shown}"
        );
        let row = rows(&page).find(|row| quoted(row[0]).next() == Some(&shown)).expect("just seen");
        if let Some(default) = option.default {
            assert!(row[1].contains(default), "the default of {shown} is {default}");
        }
    }
}

#[test]
fn every_variable_is_described() {
    let page = read("docs/configuration.md");
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    let names = text.split('"').filter(|word| {
        let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
        (word.starts_with("AZURE_") || word.starts_with("BLOBDIR_")) && word.chars().all(is_name)
    });
    // How a mount command hands something to itself, and what a demo tells the command that it runs.
    let own = ["BLOBDIR_SOURCE_SAS", "BLOBDIR_DEMO_DIR"];
    for name in names.filter(|name| !own.contains(name)) {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/configuration.md does not tell of {name}"
        );
    }
}

#[test]
fn every_promise_has_its_test() {
    let page = read("docs/semantics.md");
    let mut seen = 0;
    for row in rows(&page).filter(|row| !row[0].starts_with("---") && row[0] != "promise") {
        let tests: Vec<&str> = quoted(row.last().expect("a row has cells")).collect();
        assert!(!tests.is_empty(), "no test for: {}", row[0]);
        for test in tests {
            let (file, name) = test.split_once("::").expect("file::test");
            let file = format!("{file}.rs");
            let held = read(&file).contains(&format!("fn {name}("));
            assert!(held, "{file} has no test {name}, which is to hold: {}", row[0]);
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} tests were found in the page");
}

#[test]
fn every_message_is_one_of_the_program() {
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    // Literals that go on in the next line.
    let mut program = String::new();
    let mut parts = text.split("\\\n");
    program.push_str(parts.next().unwrap_or_default());
    for part in parts {
        program.push_str(part.trim_start());
    }
    let page = read("docs/troubleshooting.md");
    let mut seen = 0;
    for row in rows(&page).filter(|row| row[0].starts_with('`')) {
        let message = quoted(row[0]).next().expect("a quoted message");
        for fragment in message.split('…').map(|part| part.trim_matches([' ', ',', ';', ':'])) {
            let fragment = fragment.trim_end_matches(['(', ')', '?']).trim();
            // Too short to tell anything.
            if fragment.len() < 6 {
                continue;
            }
            assert!(program.contains(fragment), "nothing in src/ says {fragment:?} ({message})");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} messages were found in the page");
}
