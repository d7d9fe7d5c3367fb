//! The config's walk.
//!
//! `file` (serde mirror of the TOML) → `model` (validated) → `compile` (model + neighbours → tables) → `publish`.

pub mod file;
pub mod model;
pub mod neighbor;
