//! How long a planned job will take: from the rate it is limited to, and from what jobs of the same sort did before. Where neither
//! tells, nothing is said.

use std::path::Path;

use super::history::{self, Finished};
use super::state::JobState;
use crate::engine::ops::JobSpec;
use crate::engine::ops::plan::{Plan, Takes};
use crate::engine::units::{MIB, binary};

/// Earlier jobs looked at, the latest.
const LOOK: usize = 10;
/// A job that read less says little about a rate.
const WORTH: u64 = 16 * MIB;

/// How long `plan`, made for `spec`, will take; the history lies in `state_dir`.
pub fn takes(plan: &Plan, spec: &JobSpec, state_dir: Option<&Path>) -> Option<Takes> {
    // Where nothing can be told, the history need not be read.
    let earlier =
        state_dir.filter(|_| plan.read_bytes > 0).map(|dir| history::read(&dir.join("history.jsonl"))).unwrap_or_default();
    estimate(plan.read_bytes, spec.limit(), &spec.sort(), &earlier)
}

fn estimate(bytes: u64, limit: Option<u64>, sort: &str, earlier: &[Finished]) -> Option<Takes> {
    if bytes == 0 {
        return None;
    }
    let alike = |j: &&Finished| j.sort == sort && j.state == JobState::Done && j.read >= WORTH && j.seconds > 0.0;
    let alike: Vec<&Finished> = earlier.iter().rev().filter(alike).take(LOOK).collect();
    let (read, seconds) = alike.iter().fold((0.0, 0.0), |(r, s), j| (r + j.read as f64, s + j.seconds));
    let by_history = (seconds > 0.0).then(|| bytes as f64 / (read / seconds));
    let by_limit = limit.filter(|l| *l > 0).map(|l| bytes as f64 / l as f64);
    let jobs = if alike.len() == 1 { "one earlier job" } else { "earlier jobs" };
    match (by_history, by_limit) {
        (Some(h), l) if l.is_none_or(|l| h >= l) => {
            let rate = binary(((read / seconds) as u64).next_multiple_of(MIB));
            Some(Takes { seconds: h, basis: format!("{jobs} of this sort read {rate} a second: {} of them", alike.len()) })
        }
        (_, Some(l)) => Some(Takes { seconds: l, basis: format!("its limit is {} a second", binary(limit.unwrap_or(0))) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(sort: &str, read: u64, seconds: f64, state: JobState) -> Finished {
        let (title, verb) = (String::new(), String::new());
        Finished {
            title,
            verb,
            sort: sort.into(),
            state,
            error: None,
            ended: 0,
            seconds,
            read,
            written: 0,
            summary: None,
            command: Vec::new(),
            log: Vec::new(),
            by: (0, 0),
        }
    }

    #[test]
    fn only_what_is_alike_counts_and_the_limit_holds() {
        let history = [
            job("a", 100 * MIB, 1.0, JobState::Done),
            job("a", 100 * MIB, 3.0, JobState::Done),
            job("a", 100 * MIB, 90.0, JobState::Failed),
            job("b", 100 * MIB, 90.0, JobState::Done),
            job("a", 1, 90.0, JobState::Done),
        ];
        let by = |limit, sort| estimate(500 * MIB, limit, sort, &history);
        let told = by(None, "a").unwrap();
        assert!((told.seconds - 10.0).abs() < 1e-9 && told.basis.contains("50 MiB a second: 2 of them"), "{told:?}");
        assert!((by(Some(MIB), "a").unwrap().seconds - 500.0).abs() < 1e-9);
        assert!((by(Some(1 << 40), "a").unwrap().seconds - 10.0).abs() < 1e-9);
        assert!(by(Some(MIB), "c").unwrap().basis.contains("limit"));
        assert_eq!(by(None, "c"), None);
        assert_eq!(estimate(0, None, "a", &history), None);
    }
}
