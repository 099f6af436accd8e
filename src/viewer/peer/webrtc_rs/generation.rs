//! The credentials of one ICE generation: a restart begins another one.

use crate::sdp::Credentials;

/// One ICE generation: the credentials of both sides (RFC 8839, section 5.4).
#[derive(Clone, Debug)]
pub struct Generation {
    /// The board's.
    pub ours: Credentials,
    /// The viewer's.
    pub theirs: Credentials,
}

impl Generation {
    /// The USERNAME of the viewer's checks and that of ours (RFC 8445, section 7.2.2).
    pub fn names(&self) -> [String; 2] {
        let (ours, theirs) = (&self.ours.ufrag, &self.theirs.ufrag);
        [format!("{ours}:{theirs}"), format!("{theirs}:{ours}")]
    }
}
