//! One browser watching.
