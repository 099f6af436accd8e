//! The TOML file: the sum of the rooms' configurations.
