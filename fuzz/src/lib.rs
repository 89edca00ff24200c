//! What the fuzz targets share: the floor under test, and what must hold of it.

pub mod properties;
#[path = "../../src/wire/mod.rs"]
pub mod wire;
