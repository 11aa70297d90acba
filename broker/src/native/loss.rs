//! LossAccept, between frames and its handler.

use wire::{
    api::loss_accept::{Lost, Response, Segment},
    codec::List,
};

use super::Answer;
use crate::request::Surveyed;

/// Appends the answer.
pub(super) fn encode(out: &mut Answer<'_>, surveyed: Surveyed) {
    match surveyed {
        Ok(survey) => {
            let lost: Vec<_> = survey.lost.iter().map(|lost| Lost { from: lost.start, to: lost.end }).collect();
            let segments: Vec<_> = survey.segments.iter().map(|segment| Segment { number: segment.0 }).collect();
            let next_offset = survey.next_offset.unwrap_or(Response::END);
            out.response(&Response { lost: List::from(&lost), segments: List::from(&segments), next_offset });
        }
        Err(error) => out.failure::<Response<'_>>(error.code(), &error.to_string()),
    }
}
