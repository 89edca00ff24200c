//! What a backend is still to be asked, and in which order.

use std::collections::BTreeSet;

use super::channel::Channel;

/// Channels of one question.
const BATCH: usize = 256;

/// What is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Channels that were promised before this backend, and are not heard yet.
    pub(super) first: BTreeSet<Channel>,
    /// The others.
    pub(super) then: BTreeSet<Channel>,
    /// Of both, those that are asked one by one.
    pub(super) alone: BTreeSet<Channel>,
    /// Channels listened to and not wanted any more.
    pub(super) stale: BTreeSet<Channel>,
    /// So many of these are taken one by one.
    singly: usize,
}

impl Agenda {
    /// Not to be asked for any more.
    pub(super) fn drop(&mut self, channel: &Channel) {
        self.first.remove(channel);
        self.then.remove(channel);
        self.alone.remove(channel);
    }

    /// The channels of the next question: to listen to, or to listen to no more. Those to listen to stand here until they
    /// are heard or refused.
    pub(super) fn next(&mut self) -> (Vec<Channel>, Vec<Channel>) {
        let wanted = if self.first.is_empty() { &self.then } else { &self.first };
        if let Some(channel) = self.alone.iter().find(|channel| wanted.contains(*channel)) {
            return (vec![channel.clone()], Vec::new());
        }
        let listens: Vec<Channel> = wanted.iter().take(BATCH).cloned().collect();
        let mut unlistens = Vec::new();
        let most = if self.singly > 0 { 1 } else { BATCH };
        while listens.is_empty()
            && unlistens.len() < most
            && let Some(channel) = self.stale.pop_first()
        {
            unlistens.push(channel);
            self.singly = self.singly.saturating_sub(1);
        }
        (listens, unlistens)
    }

    /// Not to listen to these was refused together: a name no server takes is among them.
    pub(super) fn unlisten_singly(&mut self, channels: impl Iterator<Item = Channel>) {
        self.stale.extend(channels);
        self.singly = self.stale.len();
    }
}
