//! What pgmoor itself says to a client, as bytes: complaints from the catalogue.

use bytes::{BufMut, BytesMut};

use crate::error::{Complaint, Severity};
use crate::wire::backend::ERROR_RESPONSE;
use crate::wire::message::write::backend as write;
use crate::wire::message::{ErrorFields, Severity as Wire};

/// Appends an ErrorResponse that says `complaint`.
pub(super) fn complain(buf: &mut BytesMut, complaint: &Complaint) {
    let entry = complaint.code.entry();
    let severity = match complaint.severity() {
        Severity::Error => Wire::Error,
        Severity::Fatal => Wire::Fatal,
    };
    let mut fields =
        ErrorFields::new(severity, entry.sqlstate, format!("pgmoor: {}", entry.text)).with_hint(entry.hint);
    if let Some(detail) = &complaint.detail {
        fields = fields.with_detail(detail.as_str());
    }
    write::error_response(buf, &fields);
}

/// Appends PostgreSQL's own ErrorResponse, whose body this is, word for word.
pub(super) fn quote(buf: &mut BytesMut, body: &[u8]) {
    let Ok(length) = u32::try_from(body.len() + 4) else { return }; // a login's error is shorter
    buf.put_u8(ERROR_RESPONSE);
    buf.put_u32(length);
    buf.put_slice(body);
}
