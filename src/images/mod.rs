//! The images of a server: what each is called, and how a peer finds one.

pub mod set;

pub use set::{Found, ImageSet, Listed, ServedImage};
