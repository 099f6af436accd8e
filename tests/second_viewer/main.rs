//! A second, independent viewer.
