//! Uploads: begun, continued piece by piece, and ended with a digest that must be right.
//!
//! Knows files and digests, not who may upload.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};

use hyper::body::Incoming;
use parking_lot::Mutex;

use super::super::connection::NoAnswer;
use super::super::guid::new_guid;
use super::super::incoming;
use super::super::query::Query;
use super::super::reply::Reply;
use super::digest::Digest;
use super::error::{self, Failure};
use super::storage::Storage;

/// One that was begun.
#[derive(Debug)]
struct Upload {
    repository: String,
    file: File,
    len: u64,
    /// Changes with every piece: only the address that was given last leads on.
    state: String,
}

/// All that were begun. One that is being worked on is not here.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: Mutex<HashMap<String, Upload>>,
}

impl Uploads {
    /// Begins one.
    pub(super) fn start(&self, storage: &Storage, repository: &str) -> Result<Reply, Failure> {
        let id = new_guid();
        let path = storage.upload_path(&id);
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        let upload = Upload { repository: repository.to_owned(), file, len: 0, state: new_guid() };
        let reply = progress(202, &id, &upload);
        self.open.lock().insert(id, upload);
        Ok(reply)
    }

    /// How far one is.
    pub(super) fn status(&self, repository: &str, id: &str) -> Result<Reply, Failure> {
        let open = self.open.lock();
        let upload = open.get(id).filter(|upload| upload.repository == repository);
        upload.map(|upload| progress(204, id, upload)).ok_or(error::BLOB_UPLOAD_UNKNOWN.into())
    }

    /// Forgets one.
    pub(super) fn cancel(
        &self,
        storage: &Storage,
        repository: &str,
        id: &str,
    ) -> Result<Reply, Failure> {
        self.take(repository, id, None)?;
        std::fs::remove_file(storage.upload_path(id))?;
        Ok(Reply::new(204).header("docker-upload-uuid", id))
    }

    /// Appends a piece. `range` is where the caller believes it to be.
    pub(super) async fn append(
        &self,
        repository: &str,
        id: &str,
        query: &Query,
        range: Option<&str>,
        body: Incoming,
    ) -> Result<Result<Reply, Failure>, NoAnswer> {
        let mut upload = match self.take(repository, id, Some(query)) {
            Ok(upload) => upload,
            Err(failure) => return Ok(Err(failure)),
        };
        let first =
            range.map(|range| range.split_once('-').and_then(|(first, _)| first.parse().ok()));
        if let Some(first) = first
            && first != Some(upload.len)
        {
            let at = progress(416, id, &upload);
            self.open.lock().insert(id.to_owned(), upload);
            let mut failure = Failure::from(error::CHUNK_OUT_OF_ORDER);
            for name in ["location", "range", "docker-upload-uuid"] {
                let value = at.headers.get(name).and_then(|value| value.to_str().ok());
                failure = failure.header(name, value.unwrap_or_default());
            }
            return Ok(Err(failure));
        }
        let received = upload.receive(body).await;
        upload.state = new_guid();
        let reply = progress(202, id, &upload);
        self.open.lock().insert(id.to_owned(), upload);
        received?;
        Ok(Ok(reply))
    }

    /// Appends a last piece, perhaps an empty one, and gives the repository what has this digest.
    pub(super) async fn finish(
        &self,
        storage: &Storage,
        repository: &str,
        id: &str,
        query: &Query,
        body: Incoming,
    ) -> Result<Result<Reply, Failure>, NoAnswer> {
        let mut upload = match self.take(repository, id, Some(query)) {
            Ok(upload) => upload,
            Err(failure) => return Ok(Err(failure)),
        };
        let received = upload.receive(body).await;
        if received.is_err() {
            self.open.lock().insert(id.to_owned(), upload);
            received?;
            return Err(NoAnswer::Reset);
        }
        let text = query.get("digest").unwrap_or_default();
        let Some(digest) = Digest::parse(text) else {
            let failure = error::DIGEST_INVALID.about(text.into());
            self.open.lock().insert(id.to_owned(), upload);
            return Ok(Err(failure));
        };
        let path = storage.upload_path(id);
        let algorithm = digest.algorithm;
        let hashing = tokio::task::spawn_blocking(move || {
            upload.file.seek(SeekFrom::Start(0))?;
            Digest::of_file(algorithm, &mut upload.file)
        });
        let found = hashing.await.map_err(io::Error::other)??;
        if found != digest {
            std::fs::remove_file(path)?;
            return Ok(Err(error::DIGEST_INVALID.about(text.into())));
        }
        storage.add_blob(repository, &digest, &path)?;
        Ok(Ok(there(repository, &digest)))
    }

    /// Takes one out, to be worked on.
    fn take(&self, repository: &str, id: &str, query: Option<&Query>) -> Result<Upload, Failure> {
        let mut open = self.open.lock();
        let upload = open.remove(id).ok_or(error::BLOB_UPLOAD_UNKNOWN)?;
        let refusal = if upload.repository != repository {
            Some(error::BLOB_UPLOAD_UNKNOWN)
        } else if query.is_some_and(|query| query.get("_state") != Some(&upload.state)) {
            Some(error::BLOB_UPLOAD_INVALID)
        } else {
            None
        };
        match refusal {
            None => Ok(upload),
            Some(refusal) => {
                open.insert(id.to_owned(), upload);
                Err(refusal.into())
            }
        }
    }
}

impl Upload {
    /// Appends what comes. If the connection fails, nothing of it was received.
    async fn receive(&mut self, mut body: Incoming) -> Result<(), NoAnswer> {
        self.file.seek(SeekFrom::Start(self.len))?;
        let mut len = self.len;
        loop {
            match incoming::next(&mut body).await {
                Ok(Some(bytes)) => {
                    self.file.write_all(&bytes)?;
                    len += bytes.len() as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    self.file.set_len(self.len)?;
                    return Err(error);
                }
            }
        }
        self.len = len;
        Ok(())
    }
}

/// The answer to a blob that the repository has now.
pub(super) fn there(repository: &str, digest: &Digest) -> Reply {
    Reply::new(201)
        .header("location", format!("/v2/{repository}/blobs/{digest}"))
        .header("docker-content-digest", digest.to_string())
}

/// Where to go on, and how far it is. The address is relative, and has a query, as those of ACR.
fn progress(status: u16, id: &str, upload: &Upload) -> Reply {
    let Upload { repository, state, len, .. } = upload;
    let location =
        format!("/v2/{repository}/blobs/uploads/{id}?_nouploadcache=false&_state={state}");
    Reply::new(status)
        .header("location", location)
        .header("range", format!("0-{}", len.saturating_sub(1)))
        .header("docker-upload-uuid", id)
}
