//! The packet's walk.
