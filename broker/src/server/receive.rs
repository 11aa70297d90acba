//! The bytes a connection has received and not yet handled.
//!
//! The hard idea: memory follows what arrives. A quiet connection holds 4 KiB; a buffer that a read fills grows, at
//! most doubling, up to the frame that is under way; one that stays nearly empty shrinks. So a stranger's announced
//! length reserves nothing, and a frame lies in one piece when it is decoded.

/// What every connection holds.
pub(super) const BYTES_MIN: usize = 4 << 10;

/// A buffer without a large frame grows no further: as much is handled in one turn.
const BYTES_USUAL_MAX: usize = 64 << 10;

/// Reads in a row that leave three quarters empty before a buffer is halved.
const QUIET_READS: u32 = 64;

/// A size for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is full, and the frame goes on.
    AtLeast(usize),
    /// It does without.
    Better(usize),
}

/// One connection's receive buffer.
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    quiet_reads: u32,
    was_filled: bool,
}

impl ReceiveBuffer {
    /// A buffer that begins with bytes received elsewhere.
    pub(crate) fn new(carried: &[u8]) -> Self {
        let mut bytes = vec![0; BYTES_MIN.max(carried.len())];
        bytes[..carried.len()].copy_from_slice(carried);
        Self { bytes, start: 0, end: carried.len(), quiet_reads: 0, was_filled: false }
    }

    /// What was received and not consumed.
    pub(crate) fn received(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops the first `len` bytes of [`Self::received`].
    pub(crate) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "consuming {len} of {} bytes", self.end - self.start);
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether it is of the usual size and full: what is in it is the start of something large.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= BYTES_USUAL_MAX && self.end - self.start == self.bytes.len()
    }

    /// Its size, at least [`BYTES_MIN`].
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The size it should have before the next read, where the frame under way has `frame_bytes` in all; 0 for none.
    pub(super) fn wanted(&self, frame_bytes: usize) -> Wanted {
        let (capacity, received) = (self.bytes.len(), self.end - self.start);
        if frame_bytes > capacity && received == capacity {
            Wanted::AtLeast(frame_bytes.min(capacity * 2))
        } else if self.was_filled && capacity < BYTES_USUAL_MAX {
            Wanted::Better((capacity * 4).min(BYTES_USUAL_MAX))
        } else if self.quiet_reads >= QUIET_READS && received == 0 && frame_bytes == 0 {
            Wanted::Better((capacity / 2).max(BYTES_MIN))
        } else {
            Wanted::Better(capacity)
        }
    }

    /// Makes it `capacity` bytes large.
    ///
    /// # Panics
    /// If that is less than what was received.
    pub(crate) fn resize(&mut self, capacity: usize) {
        let received = self.end - self.start;
        assert!(received <= capacity, "{received} bytes do not fit into {capacity}");
        if capacity != self.bytes.len() {
            let mut bytes = vec![0; capacity];
            bytes[..received].copy_from_slice(self.received());
            *self = Self { bytes, start: 0, end: received, quiet_reads: 0, was_filled: false };
        }
    }

    /// The room to read into; never empty unless the buffer is full.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        // At most the start of one frame is left here.
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// `len` bytes were read into [`Self::room`].
    pub(crate) fn filled(&mut self, len: usize) {
        let room = self.bytes.len() - self.end;
        assert!(len <= room, "{len} bytes were read into {room}");
        self.end += len;
        self.was_filled = len == room;
        self.quiet_reads = if self.end <= self.bytes.len() / 4 { self.quiet_reads.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut ReceiveBuffer, frame_bytes: usize, bytes: &[u8]) -> usize {
        let (Wanted::AtLeast(capacity) | Wanted::Better(capacity)) = buffer.wanted(frame_bytes);
        buffer.resize(capacity);
        let room = buffer.room();
        let len = room.len().min(bytes.len());
        room[..len].copy_from_slice(&bytes[..len]);
        buffer.filled(len);
        len
    }

    #[test]
    fn it_holds_at_most_twice_what_arrived() {
        let frame: Vec<u8> = (0..1 << 20).map(|byte| byte as u8).collect();
        let mut buffer = ReceiveBuffer::new(&[]);
        let mut sent = 0;
        while sent < frame.len() {
            sent += receive(&mut buffer, frame.len(), &frame[sent..]);
            assert!(buffer.capacity() <= (2 * sent).max(BYTES_USUAL_MAX), "{} for {sent}", buffer.capacity());
        }
        assert_eq!(buffer.received(), frame);
        assert_eq!(buffer.capacity(), frame.len());
    }

    #[test]
    fn an_announced_frame_takes_nothing() {
        let mut buffer = ReceiveBuffer::new(&[]);
        for _ in 0..100 {
            receive(&mut buffer, 1 << 30, b"x");
        }
        assert_eq!(buffer.capacity(), BYTES_MIN);
    }

    #[test]
    fn a_started_frame_moves_to_the_front() {
        let mut buffer = ReceiveBuffer::new(&vec![7; BYTES_MIN]);
        buffer.consume(BYTES_MIN - 3);
        assert_eq!(receive(&mut buffer, 10, b"abcdefg"), 7);
        assert_eq!(buffer.received(), b"\x07\x07\x07abcdefg");
    }

    #[test]
    fn a_quiet_connection_gives_its_memory_back() {
        let mut buffer = ReceiveBuffer::new(&[0; 1 << 20]);
        buffer.consume(1 << 20);
        for _ in 0..64 * 20 {
            receive(&mut buffer, 0, b"ping");
            buffer.consume(4);
        }
        assert_eq!(buffer.capacity(), BYTES_MIN);
    }
}
