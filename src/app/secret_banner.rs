//! Shows a generated secret on the console.

use std::io;
use std::io::Write;

use super::page_address::PageAddress;
use crate::config::{Config, SecretOrigin};

/// Advice for a generated secret that cannot be stored.
pub const KEEP_SECRET: &str = "Make the state directory writable, or choose a secret: `web.secret`";

/// Shows the operator the secret on standard output, because the log on standard error is often sent elsewhere.
pub fn print_secret(config: &Config, origin: &SecretOrigin) {
    match (origin, &config.web.secret) {
        (SecretOrigin::Generated { stored, replaced }, Some(secret)) => {
            let page = PageAddress::of(config);
            let or = page.link_by_address().filter(|link| *link != page.link());
            let or = or.map(|link| format!(" or {link}")).unwrap_or_default();
            let because = match replaced {
                None => "This camera can be reached from the network, so it has a secret now:".to_owned(),
                Some(reason) => {
                    format!("The secret of this camera cannot be used: the stored one {reason}. It has a new one:")
                }
            };
            let until = match stored {
                Ok(file) => format!("It is shown this once, and kept in {}.", file.display()),
                Err(reason) => {
                    format!("It is valid until the next start only: it cannot be kept ({reason}). {KEEP_SECRET}.")
                }
            };
            let shown = format!(
                "\n{because}\n\n    {}\n\nThe page asks for it: open {}{or}\n{until}\n\n",
                secret.reveal(),
                page.link(),
            );
            // Standard output may be closed; the secret is stored in any case.
            io::stdout().write_all(shown.as_bytes()).ok();
            let (file, unkept) = (stored.as_ref().ok().map(|file| file.display().to_string()), stored.as_ref().err());
            match replaced {
                None => tracing::info!(file, unkept, "a secret was made"),
                Some(reason) => tracing::warn!(file, unkept, reason, "a secret was made to replace an unusable one"),
            }
        }
        (SecretOrigin::Stored(file), _) => tracing::info!(file = %file.display(), "using the secret made earlier"),
        (
            SecretOrigin::Generated { .. }
            | SecretOrigin::Configured
            | SecretOrigin::Credential
            | SecretOrigin::NotNeeded,
            _,
        ) => {}
    }
}
