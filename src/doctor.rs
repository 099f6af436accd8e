//! What this board has and what would be used.
