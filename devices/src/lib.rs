//! Devices of a PC as state machines.
#![no_std]
