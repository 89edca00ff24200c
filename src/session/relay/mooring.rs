//! Taking a backend and giving it up: what it has to be brought to, and what is known of it afterwards.

use std::sync::Arc;

use bytes::BytesMut;

use crate::backend::Parameters;
use crate::backend::pool::{Papers, Parked};
use crate::continuity::restore::Restore;
use crate::continuity::setup::Setup;
use crate::net::Stream;
use crate::wire::{TxStatus, frontend};

use super::{FROM_BACKEND, FROM_BACKEND_ROWS, Farewell, Relay};

impl Relay {
    /// Takes a backend that was brought to this session's state. `received`: bytes read beyond its last ReadyForQuery.
    /// The client is told at once what differs from what it knew of its server.
    pub(in crate::session) fn attach(&mut self, mut backend: Box<Parked>, received: &[u8]) {
        if !self.is_open() {
            self.tell_news(&mut backend.papers.parameters);
        }
        self.take(backend, received);
    }

    fn take(&mut self, mut backend: Box<Parked>, received: &[u8]) {
        let papers = &mut backend.papers;
        let known = std::mem::take(&mut papers.guard);
        self.guard.arrived(papers.berth.target.pod.clone(), known);
        if !received.is_empty() {
            self.down.append(received);
        }
        self.backend = Some(backend);
        self.down.set_interest(&FROM_BACKEND);
        self.dying = None;
        self.read_only_hit = false;
        self.ended = false;
        self.fresh = true;
    }

    /// Takes an idle backend of the pool, which is brought to this session's state with the first request.
    pub(in crate::session) fn board(&mut self, mut backend: Box<Parked>) {
        let papers = &mut backend.papers;
        if papers.setup.fits(&self.state) {
            papers.setup.share(&mut self.state);
            papers.setup.settle(&self.state);
            return self.attach(backend, &[]);
        }
        let way = Restore::between(&papers.setup, &self.state, false, self.listening.is_none());
        papers.unnamed = papers.unnamed.filter(|_| !way.ends_unnamed());
        papers.setup.settle(&self.state);
        if way.is_empty() {
            return self.attach(backend, &[]);
        }
        self.take(backend, &[]);
        self.up.inject(way.packet());
        self.pipeline.set_up();
        self.down.set_interest(&FROM_BACKEND_ROWS);
        self.setting_up = Some(Box::new(way));
    }

    /// The client was told this of its server, and has no backend yet.
    pub(in crate::session) fn is_told(&mut self, parameters: &Parameters) {
        self.pipeline.conforming_strings(conforming(parameters));
        self.told = Arc::clone(parameters);
    }

    /// The client has what ends its login: it needs the backend no longer.
    pub(in crate::session) fn is_greeted(&mut self) {
        self.fresh = false;
    }

    /// Whether the request that waits can be sent with the way to the session's state before it: it does not begin with what
    /// ends a failed transaction.
    pub(in crate::session) fn may_board(&mut self) -> bool {
        if self.unrun || self.is_open() || self.pipeline.status() == TxStatus::Failed {
            return false;
        }
        let meaning = match self.up.peek() {
            None => return self.begun,
            Some((frontend::BIND, body)) => self.pipeline.meaning_of(frontend::BIND, body),
            Some(_) => self.front_meaning(),
        };
        self.begun || !meaning.is_some_and(|script| script.ends_first())
    }

    /// Gives up the backend at an idle boundary.
    pub(in crate::session) fn detach(&mut self) -> Option<Stream> {
        self.down.cut_source();
        self.backend.take().map(|backend| backend.stream)
    }

    /// What is known of the backend.
    pub(super) fn papers(&mut self) -> Option<&mut Papers> {
        self.backend.as_deref_mut().map(|backend| &mut backend.papers)
    }

    /// The same, with what is known of it, to be given to another session. `None`: it is not in a state that is known.
    pub(in crate::session) fn give_back(&mut self) -> Option<Box<Parked>> {
        let known = self.is_idle()
            && self.down.is_empty()
            && !self.ended
            && !self.backend.as_ref().is_some_and(|backend| backend.papers.listened)
            && self.farewell != Farewell::Sent
            && !self.state.in_doubt()
            && self.state.pins().is_empty();
        self.down.cut_source();
        let mut backend = self.backend.take()?;
        let papers = &mut backend.papers;
        papers.guard = self.guard.left();
        // Touched by this session before, and not reset since.
        let before = papers.setup.touched();
        papers.setup = Setup::left_by(&mut self.state);
        papers.setup.keep_touch(before);
        known.then_some(backend)
    }

    /// Lends the backend for a question of our own; what it has sent and was not passed on comes again with [`Self::reattach`].
    pub(in crate::session) fn lend(&mut self) -> Option<(Box<Parked>, BytesMut)> {
        let unseen = BytesMut::from(self.down.front(self.down.unseen()));
        self.down.cut_source();
        Some((self.backend.take()?, unseen))
    }

    /// Takes the same backend back after a question of our own; `others` came for the client meanwhile.
    pub(in crate::session) fn reattach(&mut self, backend: Box<Parked>, others: &[u8]) {
        self.withheld = false;
        self.down.append(others);
        self.backend = Some(backend);
    }
}

/// Whether a server with these settings reads a backslash in a plain string as itself.
pub(super) fn conforming(parameters: &Parameters) -> bool {
    parameters.get("standard_conforming_strings").is_none_or(|value| value == "on")
}
