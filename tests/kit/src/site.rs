//! The page that can be hosted anywhere, bundled by Vite as its users do it, on a web server of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

/// The bundle, made once in each run of a suite.
static BUNDLE: OnceCell<TempDir> = OnceCell::const_new();

/// The page, served at a port of its own. Dropped, the server ends.
pub struct Site {
    /// `http://127.0.0.1:PORT/cameras/`: below a directory, since it need not lie at its host's root.
    pub url: String,
    _server: JoinSet<()>,
}

impl Site {
    /// Bundles the page if that was not done yet, and serves it.
    pub async fn serve() -> Result<Self> {
        let directory = BUNDLE.get_or_try_init(bundle).await?.path().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/cameras/", listener.local_addr()?);
        let router = Router::new().fallback(file).with_state(directory);
        let mut server = JoinSet::new();
        server.spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { url, _server: server })
    }
}

async fn file(State(directory): State<PathBuf>, uri: Uri) -> Response {
    let name = match uri.path().strip_prefix("/cameras/") {
        Some("") => "index.html",
        Some(name) if !name.contains("..") => name,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let kind = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    match fs::read(directory.join(name)) {
        Ok(bytes) => ([(CONTENT_TYPE, kind)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What `npm ci && npm run build` makes. Packages are fetched when the lock file is another than at the last time.
async fn bundle() -> Result<TempDir> {
    let source = Path::new(crate::REPOSITORY).join("web/hosted");
    let (lock, fetched) = (source.join("package-lock.json"), source.join("node_modules/.fetched-lock.json"));
    if fs::read(&fetched).ok() != Some(fs::read(&lock)?) {
        run(Command::new("npm").args(["ci", "--no-progress", "--loglevel", "error"]).current_dir(&source))?;
        fs::copy(&lock, &fetched)?;
    }
    // Not to `dist/`, which is the person's who works here.
    let made = tempfile::tempdir()?;
    let mut build = Command::new("npm");
    build.args(["run", "--silent", "build", "--", "--logLevel", "warn", "--emptyOutDir", "--outDir"]).arg(made.path());
    run(build.current_dir(&source))?;
    Ok(made)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("npm cannot be started (Debian: nodejs and npm)")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}
