//! The end of a login: what a server says of itself, from memory or from a backend, our own cancel key, and the first ReadyForQuery.

use bytes::BytesMut;

use crate::continuity::Input;
use crate::wire::TxStatus;
use crate::wire::message::write::{ROOM, backend as write};

use super::{LENT, Life, Next};

impl Life {
    /// What comes first.
    pub(super) fn begin(&mut self) -> Next {
        let end = self.heed_phase();
        if end.is_none() && !self.greets_from_memory() {
            self.decide(Input::Wanted);
        }
        end.into()
    }

    /// Ends the login at once, where it is known what a server would say to this client. `false`: one has to be asked.
    fn greets_from_memory(&mut self) -> bool {
        let known = self.identity.greetings.recall(self.machine.need(), &self.table);
        let Some(greeting) = known.filter(|_| self.shared.terms.pools) else { return false };
        self.relay.say(&greeting.messages);
        self.relay.is_told(&greeting.parameters);
        self.greet();
        self.reason = LENT;
        true
    }

    /// The end of the login: our own cancel key, and the first ReadyForQuery.
    pub(super) fn greet(&mut self) {
        let mut message = BytesMut::with_capacity(2 * ROOM);
        write::backend_key_data(&mut message, &self.place.key());
        write::ready_for_query(&mut message, TxStatus::Idle);
        self.relay.say(&message);
        self.relay.is_greeted();
        self.greeted = true;
    }
}
