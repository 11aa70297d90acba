//! What must hold for any bytes at all that are read as a sync group.
//!
//! The fuzz target and the property tests of the crate run the same function.

use storage::group::{Group, HEADER_BYTES, Header};

/// The log and the file that the bytes are read as part of.
pub const LOG_ID: u128 = 7;
/// See [`LOG_ID`].
pub const SALT: u64 = 9;

/// Bytes are a sync group or an error, as they are and under checksums that hold.
///
/// # Panics
/// When that does not hold.
pub fn sync_group_parsed(bytes: &[u8]) {
    looked_at(bytes);
    let mut bytes = bytes.to_vec();
    if let Some(header) = bytes.get_mut(..HEADER_BYTES) {
        header[..6].copy_from_slice(b"SBGP\x01\0");
        header[8..24].copy_from_slice(&LOG_ID.to_le_bytes());
        header[24..32].copy_from_slice(&SALT.to_le_bytes());
        // Large counts are refused for being large; small ones get further.
        for high in [50, 54, 58, 62] {
            header[high..high + 2].fill(0);
        }
        let [positions, counts] = [48, 56].map(|at| u32::from_le_bytes([header[at], header[at + 1], 0, 0]));
        let directory = positions.clamp(HEADER_BYTES as u32, 512);
        let (entries, tails) = (1 + counts % 5, counts / 5 % 3);
        let length = directory + entries * 40 + tails * 16;
        for (at, number) in [(48, length), (52, directory), (56, entries), (60, tails)] {
            header[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        header[39] = 0;
        header[40..48].fill(0);
        reseal(&mut bytes);
        looked_at(&bytes);
    }
}

/// Makes the checksums of a group hold, if it is long enough for what its header says.
pub fn reseal(bytes: &mut [u8]) {
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let header_crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..32]), &bytes[..64]);
    let lists = bytes.get(field(52)..field(48)).map(|lists| crc32c::crc32c_append(header_crc, lists));
    bytes[64..68].copy_from_slice(&lists.unwrap_or_default().to_le_bytes());
    bytes[68..72].copy_from_slice(&header_crc.to_le_bytes());
}

/// Asks a group for everything it has.
fn looked_at(bytes: &[u8]) {
    let header = Header::parse(bytes, LOG_ID, SALT);
    let Ok(group) = Group::parse(bytes, LOG_ID, SALT) else { return };
    assert_eq!(header, Ok(group.header));
    assert!(group.header.length as usize <= bytes.len());
    let mut end = HEADER_BYTES;
    for (index, (entry, range)) in group.entries().enumerate() {
        assert!(
            end <= range.start && range.start <= range.end && range.end <= group.header.directory_position as usize
        );
        end = range.start;
        if let Ok((proven, payload)) = group.entry(index as u32) {
            assert_eq!((proven, payload), (entry, &bytes[range]));
        }
    }
    assert_eq!(group.entries().count(), group.header.entry_count as usize);
    assert_eq!(group.tails().count(), group.header.tail_count as usize);
}
