//! The software VT-x machine.
