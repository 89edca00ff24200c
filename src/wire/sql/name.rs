//! What identifiers and string constants stand for.

use super::lex::{Quote, next_piece};

/// Bytes of an identifier that PostgreSQL keeps (`NAMEDATALEN` - 1).
pub(super) const MAX_NAME: usize = 63;

/// An unquoted identifier: ASCII letters become small.
pub(super) fn folded(word: &[u8]) -> String {
    clipped(String::from_utf8_lossy(word).to_ascii_lowercase())
}

/// A quoted identifier from between its quotes.
pub(super) fn quoted(inner: &[u8], unicode: bool) -> String {
    let text = String::from_utf8_lossy(inner).replace("\"\"", "\"");
    clipped(if unicode { unicode_escapes(&text) } else { text })
}

fn clipped(mut name: String) -> String {
    if name.len() > MAX_NAME {
        name.truncate(name.floor_char_boundary(MAX_NAME));
    }
    name
}

/// The value of a string constant from between its quotes. `None` for bit strings and the like.
pub(super) fn string(kind: Quote, inner: &[u8]) -> Option<String> {
    let bytes = match kind {
        Quote::Dollar => inner.to_vec(),
        Quote::Plain | Quote::Unicode => pieces(inner, false),
        Quote::Escape => pieces(inner, true),
        Quote::Typed => return None,
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(if kind == Quote::Unicode { unicode_escapes(&text) } else { text })
}

/// Undoes doubled quotes, and backslashes where they mean something, and joins pieces continued on further lines.
fn pieces(inner: &[u8], backslash: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut pos = 0;
    while let Some(&b) = inner.get(pos) {
        match (b, inner.get(pos + 1)) {
            (b'\\', Some(_)) if backslash => pos += escape(&inner[pos + 1..], &mut out) + 1,
            (b'\'', Some(b'\'')) => {
                out.push(b'\'');
                pos += 2;
            }
            // The end of a piece: the next one is behind the next quote.
            (b'\'', _) => pos += 1 + next_piece(&inner[pos + 1..]).map_or(0, |ahead| ahead + 1),
            _ => {
                out.push(b);
                pos += 1;
            }
        }
    }
    out
}

/// One escape of an `E'…'` string, without its backslash; says how many bytes it took.
fn escape(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let digits = |from: usize, radix: u32, most: usize| {
        let is_digit = |b: &&u8| char::from(**b).is_digit(radix);
        let run = rest.iter().skip(from).take(most).take_while(is_digit);
        run.fold((0_u32, 0_usize), |(n, len), &b| (n * radix + char::from(b).to_digit(radix).unwrap_or(0), len + 1))
    };
    let wide = |most: usize| match digits(1, 16, most) {
        (code, len) if len == most => char::from_u32(code),
        _ => None,
    };
    let Some(&first) = rest.first() else {
        return 0;
    };
    let single = match first {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'0'..=b'7' => {
            let (code, len) = digits(0, 8, 3);
            out.push((code & 0xff) as u8);
            return len;
        }
        b'x' if digits(1, 16, 2).1 > 0 => {
            let (code, len) = digits(1, 16, 2);
            out.push((code & 0xff) as u8);
            return 1 + len;
        }
        b'u' | b'U' => {
            let most = if first == b'u' { 4 } else { 8 };
            if let Some(c) = wide(most) {
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                return 1 + most;
            }
            first
        }
        _ => first,
    };
    out.push(single);
    1
}

/// Undoes `\XXXX`, `\+XXXXXX` and `\\`. Another escape character (UESCAPE) is not looked for.
fn unicode_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut high = None;
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        if let Some(behind) = escape.strip_prefix('\\') {
            out.push('\\');
            rest = behind;
            continue;
        }
        let (from, to) = if escape.starts_with('+') { (1, 7) } else { (0, 4) };
        let hex = escape.get(from..to).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()) else {
            out.push('\\');
            rest = escape;
            continue;
        };
        rest = &escape[to..];
        match (high.take(), code) {
            (_, 0xd800..=0xdbff) => high = Some(code),
            (Some(first), 0xdc00..=0xdfff) => {
                out.extend(char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (code - 0xdc00)));
            }
            _ => out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }
    out.push_str(rest);
    out
}
