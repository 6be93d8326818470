//! How much of its time the process that seals spends on it, while sessions write whose entries it seals.

use std::time::Duration;

/// A rest takes this many times as long as the work before it, so work of up to 52 ms takes a twentieth of the time.
/// Longer work takes more, because [`LONGEST_REST`] limits the rest: at most a tenth as long as it takes 111 ms. Every
/// pass has a fixed cost; rests half as long made twice as many passes of the same work.
const REST: u32 = 19;
/// A full block does not wait longer for its turn, however long the work before it took.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// With more pending entries than this, sealing has fallen behind, and rests are shorter. Everything that passes
/// through the pending entries takes longer with them, so they must not become ever more.
const BEHIND: i64 = 100_000;
/// With this many there are no rests.
const FAR_BEHIND: i64 = 400_000;

/// Whether sealing has fallen behind.
pub fn has_fallen_behind(pending: i64) -> bool {
    pending > BEHIND
}

/// How long to rest after work that took so long, if so many entries are still pending. Sessions may write faster than
/// a tenth of the time can seal. Since rests get shorter the more is pending, it then settles at some number between
/// the two above.
pub fn rest_after(work: Duration, pending: i64) -> Duration {
    let behind = (pending - BEHIND) as f64 / (FAR_BEHIND - BEHIND) as f64;
    (work * REST).min(LONGEST_REST).mul_f64(1.0 - behind.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_sealing_keeps_up_it_takes_a_twentieth_of_the_time_and_no_rest_is_longer_than_a_second() {
        for pending in [-1, 0, 1000, BEHIND] {
            assert!(!has_fallen_behind(pending));
            assert_eq!(rest_after(Duration::from_millis(20), pending), Duration::from_millis(380));
            assert_eq!(rest_after(Duration::from_secs(1), pending), Duration::from_secs(1));
        }
    }

    #[test]
    fn the_further_sealing_is_behind_the_shorter_it_rests_until_it_does_not_rest_at_all() {
        let rest = |pending| rest_after(Duration::from_millis(100), pending);
        let rests: Vec<Duration> = (BEHIND..=FAR_BEHIND).step_by(20_000).map(rest).collect();
        assert!(rests.is_sorted_by(|one, next| one > next), "{rests:?}");
        assert_eq!(rest((BEHIND + FAR_BEHIND) / 2), Duration::from_millis(500));
        for pending in [FAR_BEHIND, FAR_BEHIND + 1, i64::MAX / 2] {
            assert!(has_fallen_behind(pending));
            assert_eq!(rest(pending), Duration::ZERO);
        }
    }
}
