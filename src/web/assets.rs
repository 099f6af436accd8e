//! The page's files, embedded from `web/` as they are.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ring::digest;

/// One file.
pub struct Asset {
    /// Its name below `web/`, and its path below `/`.
    pub name: &'static str,
    bytes: &'static [u8],
    tag: OnceLock<HeaderValue>,
}

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        [$(Asset { name: $name, bytes: include_bytes!(concat!("../../web/", $name)), tag: OnceLock::new() }),*]
    };
}

/// All files. A test compares the list with the directory.
static ASSETS: [Asset; 28] = embed![
    "chevron.svg",
    "clock.js",
    "controls.js",
    "frames.js",
    "icon.svg",
    "icons.js",
    "index.html",
    "index.js",
    "jitter-target.js",
    "kept-login.js",
    "lip-sync.js",
    "login.html",
    "login.js",
    "manifest.webmanifest",
    "mqtt-signalling.js",
    "notices.js",
    "page.css",
    "peer.js",
    "peercam-viewer.js",
    "session.js",
    "signalling-socket.js",
    "situation.js",
    "statistics-panel.js",
    "statistics.js",
    "style.js",
    "time-code.js",
    "view.js",
    "zoom.js",
];

/// The file of that name, except for the two pages, of which `/` serves one.
pub fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name && asset.content_type() != HTML)
}

/// The viewer page.
pub fn viewer_page() -> &'static Asset {
    page("index.html")
}

/// The page that asks for the secret.
pub fn login_page() -> &'static Asset {
    page("login.html")
}

fn page(name: &str) -> &'static Asset {
    ASSETS.iter().find(|asset| asset.name == name).expect("it is in the list above")
}

const HTML: &str = "text/html; charset=utf-8";

impl Asset {
    /// The file, or 304 if the browser already has this version (RFC 9110, section 13.1.2).
    pub fn respond(&'static self, headers: &HeaderMap) -> Response {
        let shared = [
            // The browser revalidates each time and gets 304: after an update no old script runs with a new board.
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (ETAG, self.tag()),
            (CONTENT_TYPE, HeaderValue::from_static(self.content_type())),
        ];
        let mut response = if self.is_cached_by(headers) {
            (StatusCode::NOT_MODIFIED, shared).into_response()
        } else {
            (shared, Body::from(Bytes::from_static(self.bytes))).into_response()
        };
        if self.content_type() != HTML {
            // Pages of other origins use the viewer component too, and modules load with CORS only.
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        response
    }

    fn is_cached_by(&self, headers: &HeaderMap) -> bool {
        let tag = self.tag();
        let known_tag = headers.get_all(IF_NONE_MATCH).iter().filter_map(|header| header.to_str().ok());
        // A proxy that compresses makes our tag weak; for this comparison that makes no difference.
        known_tag.flat_map(|header| header.split(',')).any(|known_tag| {
            let known_tag = known_tag.trim();
            known_tag == "*" || known_tag.strip_prefix("W/").unwrap_or(known_tag).as_bytes() == tag.as_bytes()
        })
    }

    /// A strong ETag: the beginning of the content's SHA-256. 64 bits are enough, as only our own files must differ.
    fn tag(&self) -> HeaderValue {
        let make = || {
            let hash = digest::digest(&digest::SHA256, self.bytes);
            HeaderValue::from_str(&format!("\"{}\"", hex::encode(&hash.as_ref()[..8]))).expect("digits and quotes only")
        };
        self.tag.get_or_init(make).clone()
    }

    fn content_type(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("html") => HTML,
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("webmanifest") => "application/manifest+json",
            _ => "application/octet-stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_embedded_and_has_a_content_type() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(Result::unwrap)
            // `hosted/` is a page for other servers.
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ASSETS.iter().map(|asset| asset.name).collect::<Vec<_>>());
        for asset in &ASSETS {
            assert_ne!(asset.content_type(), "application/octet-stream", "{}", asset.name);
        }
    }
}
