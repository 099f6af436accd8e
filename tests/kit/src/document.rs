//! Reads configuration examples from `docs/operating.md` for the tests.

use anyhow::{Context, Result};

const DOCUMENT: &str = include_str!("../../../docs/operating.md");

/// The fenced block that follows a mark of this name.
pub fn block(name: &str) -> Result<&'static str> {
    let mark = format!("<!-- test: {name} -->");
    let (_, rest) = DOCUMENT.split_once(&mark).with_context(|| format!("no {mark}"))?;
    let (_, rest) = rest.split_once("```").context("no block behind the mark")?;
    let (_, text) = rest.split_once('\n').context("the block has no lines")?;
    Ok(text.split_once("```").context("the block does not end")?.0)
}
