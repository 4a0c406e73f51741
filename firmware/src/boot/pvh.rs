//! The boot information of PVH: `hvm_start_info`, version 1, and what it points to.

use super::{BootError, BootRequest};
use alloc::vec;
use alloc::vec::Vec;
use arch::pvh::{MAGIC, Module, StartInfo};
use core::mem::{size_of, size_of_val};
use core::ops::Range;

/// The start info as it lies at `address`, lists and strings behind it.
pub(super) fn write(
    request: &BootRequest<'_>,
    modules: &[Range<u64>],
    address: u32,
) -> Result<Vec<u8>, BootError> {
    let map = size_of::<StartInfo>();
    let list = map + size_of_val(request.memory_map);
    let strings = list + size_of::<Module>() * modules.len();
    let at = |offset: usize| u64::from(address).saturating_add(offset as u64);

    let mut text = Vec::new();
    push_string(&mut text, request.command_line);
    let mut entries = Vec::new();
    for (module, range) in request.modules.iter().zip(modules) {
        entries.extend(range.start.to_le_bytes());
        entries.extend((range.end - range.start).to_le_bytes());
        entries.extend(at(strings + text.len()).to_le_bytes());
        entries.extend(0_u64.to_le_bytes());
        push_string(&mut text, module.command_line);
    }

    let mut blob = vec![];
    for field in [MAGIC, 1, 0, modules.len() as u32] {
        blob.extend(field.to_le_bytes());
    }
    let list_address = if modules.is_empty() { 0 } else { at(list) };
    let rsdp = request.rsdp.map_or(0, |rsdp| rsdp.address);
    for field in [list_address, at(strings), rsdp, at(map)] {
        blob.extend(field.to_le_bytes());
    }
    for field in [request.memory_map.len() as u32, 0] {
        blob.extend(field.to_le_bytes());
    }
    for region in request.memory_map {
        blob.extend(region.address.to_le_bytes());
        blob.extend(region.size.to_le_bytes());
        blob.extend(region.kind.to_le_bytes());
        blob.extend(0_u32.to_le_bytes());
    }
    blob.append(&mut entries);
    blob.append(&mut text);
    Ok(blob)
}

fn push_string(text: &mut Vec<u8>, string: &str) {
    text.extend(string.bytes().take_while(|byte| *byte != 0));
    text.push(0);
}
