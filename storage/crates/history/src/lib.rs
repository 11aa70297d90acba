//! The history checker: what a log may never do, seen from its clients.
//!
//! Every record of a run carries a [`Value`] of its own. Writers note what they sent and what was acknowledged where,
//! readers what was delivered where; afterwards all notes are put together and judged. Kill loop, simulator and load
//! generator use this one judge.
//!
//! **The one hard idea.** A client's note "values v.. are at offsets o.." is a diagonal stretch in the plane of
//! offsets and values. A log that keeps its promises draws one rising curve per writer: no offset below two values, no
//! value at two offsets, no stretch that falls. So a batch costs one note however many records it has, notes that
//! continue each other melt into one, and the check is a few sweeps over sorted stretches: linear, since each actor's
//! notes are in order already and the sort only merges them.
//!
//! Three outcomes: a send is *ok* (acknowledged), *refused* (it certainly did not happen) or, when nobody said so,
//! *unknown*. A timeout is unknown, never refused: the record may appear once or not at all.
//!
//! ```
//! use history::{Moment, Observations, Reader, Verdict, Writer, WriterId};
//!
//! let partition = 7;
//! let mut writer = Writer::new(WriterId::new(1), partition);
//! let first = writer.send(1000);
//! writer.acked(first, 1000, 0, Moment(10)); // one batch, acknowledged at offsets 0..1000
//!
//! let mut reader = Reader::new(partition, 0);
//! reader.delivered(0, first, 1000, Moment(20)); // and delivered from there
//!
//! let mut run = Observations::new();
//! run.add_writer(writer);
//! run.add_reader(reader);
//! let report = run.check();
//! assert_eq!(report.verdict(), Verdict::Pass);
//! assert_eq!(report.totals().verified, 1000);
//! ```
//!
//! Not checked yet, because nothing produces them yet: aborted-read, precommitted-read, torn-transaction, dependency
//! cycles (G0, G1c, realtime), stale-generation commit, foreign-tenant byte.
#![forbid(unsafe_code)]

mod check;
mod faults;
mod payload;
mod ranges;
mod reader;
mod report;
mod span;
mod value;
mod writer;

pub use check::{Level, Observations};
pub use faults::Faults;
pub use payload::{Damage, PAYLOAD_BYTES_MIN, Payload};
pub use reader::Reader;
pub use report::{Class, Example, Harm, Report, Totals, Vacuity, Verdict};
pub use value::{Value, WriterId};
pub use writer::Writer;

/// A point in time on the run's one clock, which all its actors and faults share: nanoseconds since the start of the
/// run, real or simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);
