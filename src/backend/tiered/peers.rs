//! Who else is there, and until when the near tier can be relied on. No I/O, and time is an argument.
//!
//! # Invariants
//!
//! - A heartbeat of our own that comes back proves that we heard what was said before it was *sent*:
//!   the near tier is good for [`Peers::patience`] from then.
//! - It is good for as long since each known node sent what was last heard of it. A node that was not is missing: what
//!   it changes is not heard of, and copies have to live shortly until it is back or forgotten.
//! - A number that is left out means that something was not heard.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Message, Word};

/// How long a missing node is not forgotten.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(900);

/// More nodes than these are not told apart.
const MAX_PEERS: usize = 4096;

/// Heartbeats on their way.
const MAX_SENT: usize = 64;

#[derive(Debug)]
pub(super) struct Peers {
    own: u64,
    patience: Duration,
    known: HashMap<u64, Peer>,
    /// Our heartbeats that did not come back yet, and when they were sent.
    sent: VecDeque<(u64, Instant)>,
    /// How long messages take from their node to us, as our own did.
    lag: Duration,
    /// By our heartbeats alone.
    good_until: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    /// The number of its next message.
    next: u64,
    /// When it sent the last that was heard, about.
    heard: Instant,
    presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Missing,
    /// It said farewell.
    Gone,
}

impl Peers {
    pub(super) fn new(own: u64, patience: Duration) -> Self {
        Self {
            own,
            patience,
            known: HashMap::new(),
            sent: VecDeque::new(),
            lag: Duration::ZERO,
            good_until: None,
        }
    }

    /// A heartbeat of our own is about to be sent.
    pub(super) fn sent(&mut self, sequence: u64, now: Instant) {
        if self.sent.len() == MAX_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((sequence, now));
    }

    /// Whether something was missed before this message, so that no copy can be relied on.
    pub(super) fn hear(&mut self, message: &Message, now: Instant) -> bool {
        if message.origin == self.own {
            if message.word == Word::Heartbeat {
                self.hear_own(message.sequence, now);
            }
            return false;
        }
        let next = message.sequence.saturating_add(1);
        let heard = now.checked_sub(self.lag).unwrap_or(now);
        let is_farewell = message.word == Word::Farewell;
        if let Some(peer) = self.known.get_mut(&message.origin) {
            let is_late = message.sequence < peer.next;
            if is_late && peer.presence == Presence::Gone {
                return false;
            }
            let missed = message.sequence > peer.next;
            peer.next = peer.next.max(next);
            peer.heard = heard;
            peer.presence = if is_farewell && !is_late {
                Presence::Gone
            } else {
                Presence::Here
            };
            return missed;
        }
        let is_crowded = self.known.len() >= MAX_PEERS;
        if is_crowded {
            let oldest = self.known.iter().min_by_key(|(_, peer)| peer.heard);
            if let Some(oldest) = oldest.map(|(origin, _)| *origin) {
                self.known.remove(&oldest);
            }
        }
        let presence = if is_farewell {
            Presence::Gone
        } else {
            Presence::Here
        };
        let peer = Peer {
            next,
            heard,
            presence,
        };
        self.known.insert(message.origin, peer);
        // Of a new node's first message, nothing came before.
        is_crowded || message.sequence > 0
    }

    /// The subscription is gone.
    pub(super) fn lose(&mut self) {
        self.good_until = None;
        self.sent.clear();
    }

    /// Looks who is missing by now, and until when the near tier is good.
    pub(super) fn good_until(&mut self, now: Instant) -> Option<Instant> {
        let patience = self.patience;
        self.known.retain(|_, peer| peer.heard + FORGOTTEN > now);
        let mut until = self.good_until.filter(|until| *until > now)?;
        for peer in self.known.values_mut() {
            if peer.presence == Presence::Here {
                if peer.heard + patience <= now {
                    peer.presence = Presence::Missing;
                } else {
                    until = until.min(peer.heard + patience);
                }
            }
        }
        Some(until)
    }

    /// Whether some node is not heard that did not say farewell.
    pub(super) fn is_one_missing(&self) -> bool {
        let mut peers = self.known.values();
        peers.any(|peer| peer.presence == Presence::Missing)
    }

    fn hear_own(&mut self, sequence: u64, now: Instant) {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == sequence) else {
            return;
        };
        let Some((_, sent)) = self.sent.drain(..=at).next_back() else {
            return;
        };
        self.lag = now.saturating_duration_since(sent);
        let was_good = self.good_until.is_some_and(|until| until > now);
        self.good_until = self.good_until.max(Some(sent + self.patience));
        if !was_good {
            // As long as nothing was heard here, nobody could be missed.
            for peer in self.known.values_mut() {
                if peer.presence == Presence::Here {
                    peer.heard = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(1500);
    const BEAT: Duration = Duration::from_millis(500);

    fn message(origin: u64, sequence: u64, word: Word) -> Message {
        Message {
            origin,
            sequence,
            word,
        }
    }

    fn beat(origin: u64, sequence: u64) -> Message {
        message(origin, sequence, Word::Heartbeat)
    }

    #[test]
    fn the_near_tier_is_good_from_when_the_heartbeat_was_sent() {
        let (start, mut peers) = (Instant::now(), Peers::new(1, PATIENCE));
        assert_eq!(peers.good_until(start), None);
        peers.sent(0, start);
        peers.hear(&beat(1, 0), start + BEAT);
        let good = Some(start + PATIENCE);
        assert_eq!(peers.good_until(start + BEAT), good);
        // Again, late, or never sent.
        peers.hear(&beat(1, 0), start + BEAT);
        peers.hear(&beat(1, 9), start + BEAT);
        assert_eq!(peers.good_until(start + BEAT), good);
        assert_eq!(peers.good_until(start + PATIENCE), None);
        peers.sent(1, start + PATIENCE);
        peers.lose();
        peers.hear(&beat(1, 1), start + PATIENCE);
        assert_eq!(peers.good_until(start + PATIENCE), None);
    }

    #[test]
    fn a_number_left_out_is_missed_and_a_late_one_is_not() {
        let (now, mut peers) = (Instant::now(), Peers::new(1, PATIENCE));
        assert!(!peers.hear(&beat(2, 0), now));
        assert!(!peers.hear(&beat(2, 1), now));
        assert!(peers.hear(&beat(2, 3), now));
        assert!(!peers.hear(&beat(2, 2), now), "late");
        assert!(!peers.hear(&beat(2, 3), now), "twice");
        assert!(!peers.hear(&beat(2, 4), now));
        assert!(peers.hear(&beat(3, 7), now), "it was there before us");
        assert!(!peers.hear(&beat(3, 8), now));
    }

    #[test]
    fn a_silent_node_is_missing_until_it_is_heard_or_forgotten() {
        let (start, mut peers) = (Instant::now(), Peers::new(1, PATIENCE));
        let good = |peers: &mut Peers, sequence: u64, now| {
            peers.sent(sequence, now);
            peers.hear(&beat(1, sequence), now);
            peers.good_until(now)
        };
        peers.hear(&beat(2, 0), start);
        assert_eq!(good(&mut peers, 0, start), Some(start + PATIENCE));
        let late = start + BEAT;
        assert_eq!(good(&mut peers, 1, late), Some(start + PATIENCE));
        assert!(!peers.is_one_missing());
        let late = start + PATIENCE;
        assert_eq!(good(&mut peers, 2, late), Some(late + PATIENCE));
        assert!(peers.is_one_missing());
        peers.hear(&beat(2, 1), late);
        assert!(!peers.is_one_missing());
        let later = late + PATIENCE;
        assert!(good(&mut peers, 3, later).is_some() && !peers.is_one_missing());
        let later = later + PATIENCE;
        assert!(good(&mut peers, 4, later - BEAT).is_some());
        assert!(peers.good_until(later).is_some() && peers.is_one_missing());
        peers.good_until(later + FORGOTTEN);
        assert!(!peers.is_one_missing());
    }

    #[test]
    fn farewell_is_no_silence() {
        let (start, mut peers) = (Instant::now(), Peers::new(1, PATIENCE));
        peers.hear(&beat(2, 0), start);
        peers.hear(&message(2, 2, Word::Farewell), start);
        peers.hear(&beat(2, 1), start);
        let late = start + 2 * PATIENCE;
        peers.sent(0, late);
        peers.hear(&beat(1, 0), late);
        assert!(peers.good_until(late).is_some() && !peers.is_one_missing());
        assert!(peers.hear(&beat(2, 9), late), "it is back");
    }
}
