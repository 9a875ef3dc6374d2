//! Valid names of objects, containers and labels.

/// RFC 1123: an object's name.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

/// RFC 1123: a container's name.
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

fn is_part(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

/// `app` or `spark.apache.org/app`.
pub(super) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && !name.is_empty() && is_label_value(name),
        None => !key.is_empty() && is_label_value(key),
    }
}

pub(super) fn is_label_value(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    value.len() <= 63
        && value.bytes().all(|byte| plain(byte) || b"-_.".contains(&byte))
        && value.bytes().next().is_none_or(plain)
        && value.bytes().last().is_none_or(plain)
}
