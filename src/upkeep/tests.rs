//! What survives, and what does not.
