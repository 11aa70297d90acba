//! How a record carries its value, and how a changed byte of it shows.
//!
//! ```text
//! byte  0        8        16 ...          520      528 ...          1032 ...
//!       | value  | seal   | filler        | seal   | filler         | seal ...
//! ```
//!
//! Every 512 bytes there is a seal, made of the run's number, the value and the place: a stale, misdirected or foreign
//! disk sector cannot replace any 512 bytes of a record unseen. The filler is the same in all records of a run, so a
//! load generator can send one encoded batch for ever and only stamp it anew, which costs 16 bytes a small record.

use thiserror::Error;

use crate::Value;

/// The smallest record that can carry a value: the value and one seal.
pub const PAYLOAD_BYTES_MIN: usize = 16;

/// One seal in each stretch of this length, which is the smallest unit a disk writes.
const SEAL_INTERVAL: usize = 512;
const SEAL_FIRST: usize = 8;

/// Makes and recognises the record values of one run.
#[derive(Clone, Debug)]
pub struct Payload {
    run: u64,
    filler: Vec<u8>,
}

/// Why bytes are not a record of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// Too short for a value, or longer than any record of this run.
    #[error("a record of {bytes} bytes; this run's have 16 to {bytes_max}")]
    Length {
        /// Bytes delivered.
        bytes: usize,
        /// The run's longest.
        bytes_max: usize,
    },
    /// A seal does not fit the value: another run's record, or changed bytes.
    #[error("the seal at byte {position} does not belong to value {value}")]
    Seal {
        /// Where in the record.
        position: usize,
        /// The value it claims to have.
        value: Value,
    },
    /// A byte between the seals changed.
    #[error("byte {position} of value {value} changed")]
    Filler {
        /// Where in the record.
        position: usize,
        /// The value of the record.
        value: Value,
    },
}

impl Payload {
    /// The payloads of the run with the number `run` (chosen at random, so that records of an earlier run show), up
    /// to `bytes_max` bytes long.
    pub fn new(run: u64, bytes_max: usize) -> Self {
        let words = bytes_max.max(PAYLOAD_BYTES_MIN).div_ceil(8) as u64;
        let filler = (0..words).flat_map(|word| mix(run ^ mix(word)).to_le_bytes()).collect();
        Self { run, filler }
    }

    /// Makes `record` the record with this value.
    ///
    /// # Panics
    /// When it is shorter than [`PAYLOAD_BYTES_MIN`] or longer than the run's longest.
    pub fn write(&self, value: Value, record: &mut [u8]) {
        record.copy_from_slice(&self.filler[..record.len()]);
        self.stamp(value, record);
    }

    /// Turns a record of this run into the one with this value: rewrites only value and seals.
    ///
    /// # Panics
    /// When it is shorter than [`PAYLOAD_BYTES_MIN`].
    pub fn stamp(&self, value: Value, record: &mut [u8]) {
        record[..SEAL_FIRST].copy_from_slice(&value.to_u64().to_le_bytes());
        for position in seals(record.len()) {
            record[position..position + 8].copy_from_slice(&self.seal(value, position));
        }
    }

    /// Reads the value of a delivered record and checks every byte of it.
    ///
    /// # Errors
    /// [`Damage`], with the first place that is wrong.
    pub fn read(&self, record: &[u8]) -> Result<Value, Damage> {
        let (bytes, bytes_max) = (record.len(), self.filler.len());
        let Some((value, _)) = record.split_first_chunk().filter(|_| (PAYLOAD_BYTES_MIN..=bytes_max).contains(&bytes))
        else {
            return Err(Damage::Length { bytes, bytes_max });
        };
        let value = Value::from_u64(u64::from_le_bytes(*value));
        for position in seals(bytes) {
            if record[position..position + 8] != self.seal(value, position) {
                return Err(Damage::Seal { position, value });
            }
            self.check_filler(value, record, position + 8)?;
        }
        Ok(value)
    }

    /// Checks the filler from `start` to the next seal or the end.
    fn check_filler(&self, value: Value, record: &[u8], start: usize) -> Result<(), Damage> {
        let next_seal = start - 8 + SEAL_INTERVAL;
        let end = if next_seal + 8 <= record.len() { next_seal } else { record.len() };
        let (found, expected) = (&record[start..end], &self.filler[start..end]);
        if found == expected {
            return Ok(());
        }
        let place = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        Err(Damage::Filler { position: start + place, value })
    }

    fn seal(&self, value: Value, position: usize) -> [u8; 8] {
        mix(self.run ^ mix(value.to_u64() ^ (position as u64).rotate_left(40))).to_le_bytes()
    }
}

/// Where the seals of a record of this length start.
fn seals(bytes: usize) -> impl Iterator<Item = usize> {
    (SEAL_FIRST..=bytes - 8).step_by(SEAL_INTERVAL)
}

/// The finalizer of SplitMix64: every bit of the input changes about half of the output's.
/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriterId;

    const LENGTHS: [usize; 11] = [16, 17, 100, 511, 519, 520, 527, 528, 529, 1024, 2000];

    fn value(sequence: u64) -> Value {
        Value::new(WriterId::new(3), sequence)
    }

    #[test]
    fn what_was_written_is_read() {
        let payload = Payload::new(1, 2000);
        for length in LENGTHS {
            let mut record = vec![0; length];
            payload.write(value(5), &mut record);
            assert_eq!(payload.read(&record), Ok(value(5)));
            payload.stamp(value(6), &mut record);
            assert_eq!(payload.read(&record), Ok(value(6)));
        }
    }

    #[test]
    fn every_flipped_bit_shows() {
        let payload = Payload::new(1, 2000);
        for length in LENGTHS {
            let mut record = vec![0; length];
            payload.write(value(5), &mut record);
            for position in 0..length {
                record[position] ^= 1 << (position % 8);
                payload.read(&record).expect_err("a flipped bit must show");
                record[position] ^= 1 << (position % 8);
            }
        }
    }

    #[test]
    fn a_stale_sector_shows_wherever_it_lies() {
        let payload = Payload::new(1, 4096);
        let mut stale = vec![0; 4096];
        payload.write(value(5), &mut stale);
        for start in 0..=4096 - SEAL_INTERVAL {
            let mut record = vec![0; 4096];
            payload.write(value(6), &mut record);
            record[start..start + SEAL_INTERVAL].copy_from_slice(&stale[start..start + SEAL_INTERVAL]);
            payload.read(&record).expect_err("a stale sector must show");
        }
    }

    #[test]
    fn records_of_another_run_and_odd_lengths_are_damage() {
        let payload = Payload::new(1, 100);
        let mut record = [0; 100];
        Payload::new(2, 100).write(value(5), &mut record);
        assert_eq!(payload.read(&record), Err(Damage::Seal { position: 8, value: value(5) }));
        payload.write(value(5), &mut record);
        assert!(matches!(payload.read(&record[..15]), Err(Damage::Length { bytes: 15, .. })));
        assert!(matches!(payload.read(&[]), Err(Damage::Length { bytes: 0, .. })));
        assert!(matches!(payload.read(&[0; 200]), Err(Damage::Length { bytes: 200, .. })));
    }
}
