//! Who decides what a crash leaves behind: usually the seed, in an exhaustive test a counter.

/// Given `n`, chooses a number below it.
pub type Choose<'a> = dyn FnMut(u64) -> u64 + 'a;

/// The possibilities of an unsynced change as a whole: lost, kept, or decided part by part. The last is twice as likely.
pub(super) const WHOLE_OR_PARTS: u64 = 4;
/// A choice among them: part by part.
pub(super) const PARTS: u64 = 2;

/// Runs through every sequence of choices, one a round, like the wheels of an odometer.
///
/// ```
/// let mut odometer = runtime::sim::disk::Odometer::default();
/// let mut seen = Vec::new();
/// while odometer.next_round() {
///     seen.push((odometer.choose(2), odometer.choose(2)));
/// }
/// assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1)]);
/// ```
#[derive(Default)]
pub struct Odometer {
    /// Each choice of the round, with the number of its possibilities.
    wheels: Vec<(u64, u64)>,
    position: usize,
    started: bool,
}

impl Odometer {
    /// Turns to the next sequence; false after the last.
    pub fn next_round(&mut self) -> bool {
        self.position = 0;
        if !self.started {
            self.started = true;
            return true;
        }
        while let Some((choice, possible)) = self.wheels.pop() {
            if choice + 1 < possible {
                self.wheels.push((choice + 1, possible));
                return true;
            }
        }
        false
    }

    /// The next choice of this round, below `possible`.
    pub fn choose(&mut self, possible: u64) -> u64 {
        if self.position == self.wheels.len() {
            self.wheels.push((0, possible));
        }
        let (choice, expected) = self.wheels[self.position];
        assert_eq!(
            possible, expected,
            "a round must make the same choices as the one before, up to the one that turned"
        );
        self.position += 1;
        choice
    }
}
