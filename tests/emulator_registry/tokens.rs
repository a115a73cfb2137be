//! Who may do what: challenges, the token service, Entra tokens, passwords, and time that passes.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blobdir::emulator::registry::{Access, Config, User};
use serde_json::{Value, json};

use crate::client::{OCI_MANIFEST, Registry, basic, code, json, sha256, token_config};
use crate::http::Answer;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const NULL_USER: &str = "00000000-0000-0000-0000-000000000000";

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn post(registry: &Registry, path: &str, form: &str) -> Answer {
    registry.send("POST", path, &[FORM], form.as_bytes())
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

#[test]
fn a_challenge_says_what_is_needed() {
    let registry = Registry::with_tokens();
    let host = registry.server.addr();
    let digest = sha256(b"");
    for (method, path, scope) in [
        ("GET", "/v2/", ""),
        ("GET", &*format!("/v2/a/blobs/{digest}"), "repository:a:pull"),
        ("HEAD", "/v2/a/manifests/v1", "repository:a:pull"),
        ("GET", "/v2/a/tags/list", "repository:a:metadata_read"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
        ("GET", "/acr/v1/a/b", "repository:a/b:metadata_read"),
        ("DELETE", "/acr/v1/a/_tags/v1", "repository:a:delete"),
        ("POST", "/v2/a/blobs/uploads/", "repository:a:pull,push"),
        (
            "POST",
            &format!("/v2/a/blobs/uploads/?mount={digest}&from=b"),
            "repository:a:pull,push repository:b:pull",
        ),
        ("PUT", "/v2/a/manifests/v1", "repository:a:pull,push"),
        ("DELETE", "/v2/a/manifests/v1", "repository:a:delete"),
    ] {
        let answer = registry.send(method, path, &[], b"").expect(401);
        let scope = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
        // ACR blames a token even where none was sent.
        let expected = format!(
            "Bearer realm=\"http://{host}/oauth2/token\",service=\"{host}\"{scope},error=\"invalid_token\""
        );
        assert_eq!(answer.header("www-authenticate"), expected, "{method} {path}");
    }
    let answer = registry.get("/v2/_catalog", &[]);
    assert_eq!(code(&answer), "UNAUTHORIZED");
    let detail = &json(&answer)["errors"][0]["detail"];
    assert_eq!(*detail, json!([{ "Type": "registry", "Name": "catalog", "Action": "*" }]));
}

#[test]
fn a_token_is_good_for_its_scope_and_time() {
    let registry = Registry::with_tokens();
    registry.server.push_image("a", "v1", &[]).unwrap();
    let token = registry.token("repository:a:pull");
    let authorization = bearer(&token);
    let get = |path: &str| {
        registry.get(path, &[("authorization", &authorization), ("accept", OCI_MANIFEST)])
    };
    get("/v2/a/manifests/v1").expect(200);
    get("/v2/").expect(200);
    for other in ["/v2/b/manifests/v1", "/v2/_catalog"] {
        let refused = get(other).expect(401);
        assert!(refused.header("www-authenticate").ends_with("error=\"insufficient_scope\""));
    }
    let claims = claims(&token);
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!((4500..=4501).contains(&lifetime), "{lifetime}");
    registry.server.advance_clock(Duration::from_secs(4400));
    get("/v2/a/manifests/v1").expect(200);
    registry.server.advance_clock(Duration::from_secs(102));
    let expired = get("/v2/a/manifests/v1").expect(401);
    assert!(expired.header("www-authenticate").ends_with("error=\"invalid_token\""));
    let renewed = bearer(&registry.token("repository:a:pull"));
    let headers = [("authorization", &*renewed), ("accept", OCI_MANIFEST)];
    registry.get("/v2/a/manifests/v1", &headers).expect(200);
    registry.server.revoke_tokens();
    registry.get("/v2/a/manifests/v1", &headers).expect(401);
    let forged = format!("{token}x");
    registry.get("/v2/", &[("authorization", &bearer(&forged))]).expect(401);
    assert_eq!(registry.server.refused(), 5);
}

#[test]
fn the_token_service_gives_what_the_user_has() {
    let users = vec![User::new("u", "p").with_grants(&["repository:team/*:pull,metadata_read"])];
    let registry = Registry::with(Config { users, ..token_config() });
    let path = "/oauth2/token?service=s&scope=repository:team/a:pull,push&scope=registry:catalog:*";
    let answer = registry.get(path, &[("authorization", &basic("u", "p"))]).expect(200);
    let value = json(&answer);
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["access_token"]);
    assert_eq!(answer.header("x-ms-ratelimit-remaining-calls-per-second"), "166.65");
    let granted = &claims(text(&value, "access_token"))["access"];
    assert_eq!(*granted, json!([{ "type": "repository", "name": "team/a", "actions": ["pull"] }]));
    for wrong in [basic("u", "x"), basic("x", "p"), "Basic !".to_owned()] {
        registry.get(path, &[("authorization", &wrong)]).expect(401);
    }
    registry.get(path, &[]).expect(401);
    let docker = Registry::with(Config { announces_lifetime: true, ..token_config() });
    let path = "/oauth2/token?service=s&scope=repository:a:pull&offline_token=true";
    let value = json(&docker.get(path, &[("authorization", &basic("u", "p"))]).expect(200));
    assert_eq!(value["expires_in"], 4500);
    assert_eq!(value["token"], value["access_token"]);
    let form = format!("grant_type=refresh_token&refresh_token={}", text(&value, "refresh_token"));
    post(&docker, "/oauth2/token", &form).expect(200);
}

#[test]
fn an_entra_token_leads_to_an_access_token() {
    let check = |token: &str| match token {
        "good" => Ok(()),
        _ => Err("Signature validation failed".to_owned()),
    };
    let registry = Registry::with(Config { entra: Some(Arc::new(check)), ..token_config() });
    registry.server.push_image("a", "v1", &[]).unwrap();
    let form = "grant_type=access_token&service=s&tenant=t&access_token=";
    let refused = post(&registry, "/oauth2/exchange", &format!("{form}bad")).expect(401);
    assert!(refused.text().contains("Signature validation failed"));
    post(&registry, "/oauth2/exchange", "grant_type=access_token&access_token=good").expect(400);
    let answer = post(&registry, "/oauth2/exchange", &format!("{form}good")).expect(200);
    let refresh = text(&json(&answer), "refresh_token").to_owned();
    let form = format!(
        "grant_type=refresh_token&service=s&scope=repository%3Aa%3Apull+repository:b:pull&refresh_token={refresh}"
    );
    let answer = post(&registry, "/oauth2/token", &form).expect(200);
    let access = text(&json(&answer), "access_token").to_owned();
    let headers = [("accept", OCI_MANIFEST)];
    let get = |authorization: &str| {
        registry.get("/v2/a/manifests/v1", &[headers[0], ("authorization", authorization)])
    };
    get(&bearer(&access)).expect(200);
    // As passwords of nobody, both are good; as the other kind of token, neither.
    get(&basic(NULL_USER, &refresh)).expect(200);
    get(&basic(NULL_USER, &access)).expect(200);
    get(&bearer(&refresh)).expect(401);
    post(&registry, "/oauth2/token", &form.replace(&refresh, &access)).expect(401);
    registry.server.advance_clock(Duration::from_secs(3 * 3600 + 1));
    post(&registry, "/oauth2/token", &form).expect(401);
}

#[test]
fn passwords_are_taken_directly() {
    let registry = Registry::with_tokens();
    registry.get("/v2/_catalog", &[("authorization", &basic("u", "p"))]).expect(200);
    registry.get("/v2/_catalog", &[("authorization", &basic("u", "x"))]).expect(401);
    let users = vec![User::new("u", "p"), User::new("r", "p").with_grants(&["repository:*:pull"])];
    let plain = Registry::with(Config { access: Access::Basic, users, ..Config::default() });
    let refused = plain.get("/v2/", &[]).expect(401);
    assert!(refused.header("www-authenticate").starts_with("Basic realm=\""));
    plain.get("/v2/_catalog", &[("authorization", &basic("u", "p"))]).expect(200);
    plain.get("/v2/_catalog", &[("authorization", &basic("r", "p"))]).expect(403);
    plain.get("/v2/", &[("authorization", &basic("r", "x"))]).expect(401);
}

#[test]
fn anybody_may_pull_where_that_is_allowed() {
    let anonymous = vec!["repository:public/*:pull,metadata_read".to_owned()];
    let registry = Registry::with(Config { anonymous, ..token_config() });
    registry.server.push_image("public/a", "v1", &[]).unwrap();
    registry.server.push_image("private", "v1", &[]).unwrap();
    let scope = "scope=repository:public/a:pull+repository:private:pull";
    let get = registry.get(&format!("/oauth2/token?service=s&{}", scope.replace('+', "%20")), &[]);
    // As Azure's own SDK asks.
    let form = format!("grant_type=password&service=s&refresh_token=&{scope}");
    for answer in [get, post(&registry, "/oauth2/token", &form)] {
        let token = bearer(text(&json(&answer.expect(200)), "access_token"));
        let headers = [("authorization", &*token), ("accept", OCI_MANIFEST)];
        registry.get("/v2/public/a/manifests/v1", &headers).expect(200);
        registry.get("/v2/public/a/tags/list", &headers).expect(200);
        registry.get("/v2/private/manifests/v1", &headers).expect(401);
    }
}

#[test]
fn tags_may_be_hidden_from_who_can_pull() {
    let config = Config { strict_listing: true, ..token_config() };
    let registry = Registry::with(config);
    registry.server.push_image("a", "v1", &[]).unwrap();
    let pull = bearer(&registry.token("repository:a:pull"));
    let refused = registry.get("/v2/a/tags/list", &[("authorization", &pull)]).expect(401);
    assert!(refused.header("www-authenticate").ends_with("error=\"insufficient_scope\""));
    let read = bearer(&registry.token("repository:a:metadata_read"));
    registry.get("/v2/a/tags/list", &[("authorization", &read)]).expect(200);
}
