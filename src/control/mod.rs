//! What the board says of itself.
