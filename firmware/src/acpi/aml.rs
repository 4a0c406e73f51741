//! The little AML that our DSDT needs, and the one name that power-off needs from any DSDT.

use alloc::vec::Vec;

const NAME: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;
const EXTENDED: u8 = 0x5b;
const DEVICE: u8 = 0x82;
const ROOT: u8 = b'\\';
const ONES: u8 = 0xff;

/// The longest encoding that [`sleep_type_off`] looks at, from the name on.
pub const S5_WINDOW: usize = 32;

/// EISA identifier PNP0A03: a PCI bus.
const PCI_BUS: u32 = 0x030a_d041;
/// The PCI bus's resources (ACPI 6.4): bus 0 alone; the configuration ports, which it uses itself;
/// the other ports; the video window; the hole below 4 GiB up to the I/O APIC.
const PCI_RESOURCES: &[&[u8]] = &[
    &word_range(2, 0x0c, 0, 0),
    &[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8],
    &word_range(1, 0x0c, 0, 0x0cf7),
    &word_range(1, 0x0c, 0x0d00, 0xffff),
    &memory_range(0x000a_0000, 0x000b_ffff),
    &memory_range(0xc000_0000, 0xfebf_ffff),
    // End tag without checksum.
    &[0x79, 0],
];

/// A word address space descriptor for what the bridge passes on: `kind` 1 is ports, 2 bus numbers;
/// `flags` say that both ends are fixed.
const fn word_range(kind: u8, flags: u8, first: u16, last: u16) -> [u8; 16] {
    let [a, b] = first.to_le_bytes();
    let [c, d] = last.to_le_bytes();
    // 10000H ports would not fit, and no range here has as many.
    let [e, f] = (last - first + 1).to_le_bytes();
    // Every kind of port address.
    let specific = if kind == 1 { 3 } else { 0 };
    [
        0x88, 13, 0, kind, flags, specific, 0, 0, a, b, c, d, 0, 0, e, f,
    ]
}

/// A double-word address space descriptor of memory, not cached, both ends fixed.
const fn memory_range(first: u32, last: u32) -> [u8; 26] {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f, g, h] = last.to_le_bytes();
    let [i, j, k, l] = (last - first + 1).to_le_bytes();
    [
        0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, a, b, c, d, e, f, g, h, 0, 0, 0, 0, i, j, k, l,
    ]
}

/// The device of the PCI bus.
fn pci_bus() -> Vec<u8> {
    let mut device = Vec::from(*b"PCI0");
    device.push(NAME);
    device.extend(b"_HID");
    device.push(DWORD_PREFIX);
    device.extend(PCI_BUS.to_le_bytes());
    device.push(NAME);
    device.extend(b"_CRS");
    device.push(BUFFER);
    let resources = PCI_RESOURCES.concat();
    let mut buffer = Vec::from([BYTE_PREFIX, resources.len() as u8]);
    buffer.extend(resources);
    with_length(&mut device, &buffer);
    device
}

/// A DSDT's definition block: \_S5 with `off`, \_S3 if there is a `suspend`, the PCI bus, and a processor device for each
/// UID below `processors`.
pub(super) fn definition_block(off: u8, suspend: Option<u8>, processors: u32) -> Vec<u8> {
    let mut aml = Vec::new();
    let states = [(b"_S5_", Some(off)), (b"_S3_", suspend)];
    for (name, sleep_type) in states {
        let Some(sleep_type) = sleep_type else {
            continue;
        };
        aml.extend([NAME, ROOT]);
        aml.extend(name);
        // Package of four: SLP_TYPa, SLP_TYPb and two reserved (ACPI 7.4.2).
        aml.push(PACKAGE);
        with_length(
            &mut aml,
            &[4, BYTE_PREFIX, sleep_type, BYTE_PREFIX, sleep_type, 0, 0],
        );
    }
    let mut devices = Vec::from([ROOT]);
    devices.extend(b"_SB_");
    devices.extend([EXTENDED, DEVICE]);
    with_length(&mut devices, &pci_bus());
    for uid in 0..processors {
        let mut device = Vec::from(processor_name(uid));
        device.push(NAME);
        device.extend(b"_HID");
        device.push(STRING_PREFIX);
        device.extend(b"ACPI0007\0");
        device.push(NAME);
        device.extend(b"_UID");
        device.push(DWORD_PREFIX);
        device.extend(uid.to_le_bytes());
        devices.extend([EXTENDED, DEVICE]);
        with_length(&mut devices, &device);
    }
    aml.push(SCOPE);
    with_length(&mut aml, &devices);
    aml
}

/// C000, C001, ... in base 36.
fn processor_name(uid: u32) -> [u8; 4] {
    let digit = |power: u32| match (uid / power % 36) as u8 {
        value @ 0..=9 => b'0' + value,
        value => b'A' + value - 10,
    };
    [b'C', digit(36 * 36), digit(36), digit(1)]
}

/// Appends the package length, which counts itself (ACPI 20.2.4), and the body.
fn with_length(aml: &mut Vec<u8>, body: &[u8]) {
    let length = body.len();
    if length + 1 < 1 << 6 {
        aml.push(length as u8 + 1);
    } else {
        let (extra, total) = if length + 2 < 1 << 12 {
            (1, length + 2)
        } else if length + 3 < 1 << 20 {
            (2, length + 3)
        } else {
            (3, length + 4)
        };
        // Bits 7:6 say how many bytes follow, bits 3:0 are the lowest nibble.
        aml.push(extra << 6 | (total & 15) as u8);
        for index in 0..extra {
            aml.push((total >> (4 + 8 * index)) as u8);
        }
    }
    aml.extend(body);
}

/// SLP_TYPa and SLP_TYPb of the first `_S5` package that begins in `aml`. AML is not interpreted:
/// the name and the package behind it are recognized by their bytes.
pub fn sleep_type_off(aml: &[u8]) -> Option<(u8, u8)> {
    aml.windows(5)
        .enumerate()
        .filter(|(_, window)| window.ends_with(b"_S5_") && matches!(window[0], NAME | ROOT))
        .find_map(|(offset, _)| {
            let [PACKAGE, rest @ ..] = aml.get(offset + 5..)? else {
                return None;
            };
            // Bits 7:6 of the first length byte: how many more follow.
            let lead = rest.first()?;
            let [elements, rest @ ..] = rest.get(1 + usize::from(lead >> 6)..)? else {
                return None;
            };
            let (first, rest) = integer(rest).filter(|_| *elements >= 1)?;
            let second = integer(rest).filter(|_| *elements >= 2);
            Some((first, second.map_or(first, |(value, _)| value)))
        })
}

/// A constant integer's low three bits, which is what SLP_TYP has, and what is behind it.
fn integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    let (value, rest) = match aml {
        [value @ (0 | 1 | ONES), rest @ ..]
        | [BYTE_PREFIX, value, rest @ ..]
        | [WORD_PREFIX, value, _, rest @ ..]
        | [DWORD_PREFIX, value, _, _, _, rest @ ..] => (*value, rest),
        _ => return None,
    };
    Some((value & 7, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_s5_is_found() {
        for processors in [0, 1, 2, 100, 3000] {
            let aml = definition_block(5, None, processors);
            assert_eq!(sleep_type_off(&aml), Some((5, 5)));
            assert_eq!(&aml[..15], b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x05\0\0");
            // The scope's length, decoded again, ends where the block does.
            let scope = &aml[16..];
            let extra = usize::from(scope[0] >> 6);
            let mut length = usize::from(scope[0] & if extra == 0 { 0x3f } else { 0x0f });
            for index in 0..extra {
                length |= usize::from(scope[1 + index]) << (4 + 8 * index);
            }
            assert_eq!(length, scope.len());
        }
        // \_S3 follows.
        let aml = definition_block(5, Some(1), 1);
        assert_eq!(sleep_type_off(&aml), Some((5, 5)));
        assert_eq!(&aml[15..30], b"\x08\\_S3_\x12\x08\x04\x0a\x01\x0a\x01\0\0");
        assert_eq!(processor_name(0), *b"C000");
        assert_eq!(processor_name(36 * 36 + 35), *b"C10Z");
    }

    #[test]
    fn foreign_encodings_of_s5_are_found() {
        for (aml, expected) in [
            (&b"x\x08_S5_\x12\x06\x04\0\0\0\0"[..], Some((0, 0))),
            (b"\x08_S5_\x12\x07\x04\x0a\x07\x01\0\0", Some((7, 1))),
            (
                b"\x08_S5_\x12\x4a\x00\x04\x0b\x05\0\x0c\x03\0\0\0\0\0",
                Some((5, 3)),
            ),
            (b"\x08_S5_\x12\x04\x01\x0a\x05", Some((5, 5))),
            // A reference before the definition.
            (
                b"p_S5_\x12q\x08_S5_\x14\x08_S5_\x12\x06\x04\x01\0\0\0",
                Some((1, 0)),
            ),
            (b"\x08_S4_\x12\x06\x04\0\0\0\0", None),
            (b"\x08_S5_\x12\x02\x00", None),
            (b"\x08_S5_", None),
        ] {
            assert_eq!(sleep_type_off(aml), expected, "{aml:x?}");
        }
    }

    #[test]
    fn cut_anywhere_never_panics() {
        let aml = b"\x08_S5_\x12\xca\x00\x00\x00\x04\x0c\x05\0\0\0\x0c\x03\0\0\0\0\0";
        assert_eq!(sleep_type_off(aml), Some((5, 3)));
        assert!(aml.len() < S5_WINDOW);
        for length in 0..aml.len() {
            let _ = sleep_type_off(&aml[..length]);
        }
        assert_eq!(sleep_type_off(&[0xff; 100]), None);
    }
}
