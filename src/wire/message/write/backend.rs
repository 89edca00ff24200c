//! Writers of what a server sends; towards the client we are one.

use super::{frame, list, text, value};
use crate::wire::message::{ErrorFields, Severity};
use crate::wire::startup::Negotiation;
use crate::wire::{CancelKey, ProtocolVersion, TxStatus, backend as tag};
use bytes::{BufMut, BytesMut};

fn authentication(buf: &mut BytesMut, code: i32, body: impl FnOnce(&mut BytesMut)) {
    frame(buf, tag::AUTHENTICATION, |b| {
        b.put_i32(code);
        body(b);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(buf: &mut BytesMut) {
    authentication(buf, 0, |_| {});
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(buf: &mut BytesMut) {
    authentication(buf, 3, |_| {});
}

/// AuthenticationMD5Password.
pub fn authentication_md5(buf: &mut BytesMut, salt: [u8; 4]) {
    authentication(buf, 5, |b| b.put_slice(&salt));
}

/// AuthenticationSASL with the mechanisms offered, best first. An empty name is left out: it would end the list.
pub fn authentication_sasl(buf: &mut BytesMut, mechanisms: &[&str]) {
    authentication(buf, 10, |b| {
        for name in mechanisms.iter().filter(|name| !name.is_empty() && !name.starts_with('\0')) {
            text(b, name.as_bytes());
        }
        b.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(buf: &mut BytesMut, data: &[u8]) {
    authentication(buf, 11, |b| b.put_slice(data));
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(buf: &mut BytesMut, data: &[u8]) {
    authentication(buf, 12, |b| b.put_slice(data));
}

/// BackendKeyData.
pub fn backend_key_data(buf: &mut BytesMut, key: &CancelKey) {
    frame(buf, tag::BACKEND_KEY_DATA, |b| {
        b.put_i32(key.process_id);
        b.put_slice(&key.secret);
    });
}

/// ParameterStatus.
pub fn parameter_status(buf: &mut BytesMut, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    frame(buf, tag::PARAMETER_STATUS, |b| {
        text(b, name.as_ref());
        text(b, value.as_ref());
    });
}

/// ReadyForQuery.
pub fn ready_for_query(buf: &mut BytesMut, status: TxStatus) {
    frame(buf, tag::READY_FOR_QUERY, |b| b.put_u8(status.byte()));
}

/// NegotiateProtocolVersion. The version is written whole, as PostgreSQL does.
pub fn negotiate_protocol_version(buf: &mut BytesMut, negotiation: &Negotiation) {
    frame(buf, tag::NEGOTIATE_PROTOCOL_VERSION, |b| {
        b.put_u32(ProtocolVersion { minor: negotiation.minor }.code());
        b.put_u32(u32::try_from(negotiation.unrecognized.len()).unwrap_or(u32::MAX));
        for option in &negotiation.unrecognized {
            text(b, option.as_bytes());
        }
    });
}

/// ErrorResponse.
pub fn error_response(buf: &mut BytesMut, fields: &ErrorFields<'_>) {
    report(buf, tag::ERROR_RESPONSE, fields);
}

/// NoticeResponse.
pub fn notice_response(buf: &mut BytesMut, fields: &ErrorFields<'_>) {
    report(buf, tag::NOTICE_RESPONSE, fields);
}

fn report(buf: &mut BytesMut, tag: u8, fields: &ErrorFields<'_>) {
    let severity: Severity = fields.severity;
    let given = [
        (b'S', Some(severity.as_str())),
        (b'V', Some(severity.as_str())),
        (b'C', Some(&*fields.code)),
        (b'M', Some(&*fields.message)),
        (b'D', fields.detail.as_deref()),
        (b'H', fields.hint.as_deref()),
    ];
    frame(buf, tag, |b| {
        for (field, value) in given {
            if let Some(value) = value {
                b.put_u8(field);
                text(b, value.as_bytes());
            }
        }
        b.put_u8(0);
    });
}

/// CommandComplete.
pub fn command_complete(buf: &mut BytesMut, command: impl AsRef<[u8]>) {
    frame(buf, tag::COMMAND_COMPLETE, |b| text(b, command.as_ref()));
}

/// EmptyQueryResponse.
pub fn empty_query_response(buf: &mut BytesMut) {
    frame(buf, tag::EMPTY_QUERY_RESPONSE, |_| {});
}

/// ParseComplete.
pub fn parse_complete(buf: &mut BytesMut) {
    frame(buf, tag::PARSE_COMPLETE, |_| {});
}

/// BindComplete.
pub fn bind_complete(buf: &mut BytesMut) {
    frame(buf, tag::BIND_COMPLETE, |_| {});
}

/// CloseComplete.
pub fn close_complete(buf: &mut BytesMut) {
    frame(buf, tag::CLOSE_COMPLETE, |_| {});
}

/// NoData.
pub fn no_data(buf: &mut BytesMut) {
    frame(buf, tag::NO_DATA, |_| {});
}

/// PortalSuspended.
pub fn portal_suspended(buf: &mut BytesMut) {
    frame(buf, tag::PORTAL_SUSPENDED, |_| {});
}

/// ParameterDescription.
pub fn parameter_description(buf: &mut BytesMut, types: &[u32]) {
    frame(buf, tag::PARAMETER_DESCRIPTION, |b| list(b, types, |b, oid| b.put_u32(oid)));
}

/// RowDescription of columns that are all of type text, of no table, in text format.
pub fn row_description(buf: &mut BytesMut, names: &[&str]) {
    const TEXT_OID: u32 = 25;
    frame(buf, tag::ROW_DESCRIPTION, |b| {
        list(b, names, |b, name| {
            text(b, name.as_bytes());
            b.put_u32(0); // table
            b.put_u16(0); // column
            b.put_u32(TEXT_OID);
            b.put_i16(-1); // length: varies
            b.put_i32(-1); // modifier: none
            b.put_u16(0); // format: text
        });
    });
}

/// DataRow; `None` is NULL.
pub fn data_row(buf: &mut BytesMut, values: &[Option<&[u8]>]) {
    frame(buf, tag::DATA_ROW, |b| list(b, values, value));
}

/// NotificationResponse.
pub fn notification_response(
    buf: &mut BytesMut,
    process_id: i32,
    channel: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
) {
    frame(buf, tag::NOTIFICATION_RESPONSE, |b| {
        b.put_i32(process_id);
        text(b, channel.as_ref());
        text(b, payload.as_ref());
    });
}
