//! What is in the bodies of packs: inputs one after the other on the way down, answers on the way up, each behind its length.
//!
//! ```text
//!  input    length, 16 bits                      its bytes
//!  answer   length, 31 bits, and 1 if it failed  its bytes: the output, or the verdict
//! ```
//!
//! All numbers are little-endian.

use super::codec::Violation;

/// What an answer takes beside its bytes.
pub(crate) const ANSWER: usize = 4;

/// What an input takes beside its bytes.
pub(crate) const INPUT: usize = 2;

/// Adds an input, if it is not too long. It stands behind room for its length.
pub(crate) fn put_input(out: &mut Vec<u8>, input: &mut [u8]) -> bool {
    let Some((room, rest)) = input.split_first_chunk_mut::<INPUT>() else { return false };
    let Ok(length) = u16::try_from(rest.len()) else { return false };
    *room = length.to_le_bytes();
    out.extend_from_slice(input);
    true
}

/// Takes the next input out of a body.
///
/// # Errors
///
/// When the body is too short.
pub(crate) fn take_input<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], Violation> {
    let (length, rest) = body.split_first_chunk().ok_or_else(short)?;
    let (input, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or_else(short)?;
    *body = rest;
    Ok(input)
}

/// How many bytes the first `n` inputs of a body take; all of them if there are not so many.
pub(crate) fn span(body: &[u8], n: u32) -> usize {
    let mut at = 0;
    for _ in 0..n {
        let Some(length) = body.get(at..).and_then(|rest| rest.first_chunk()) else { break };
        at += INPUT + usize::from(u16::from_le_bytes(*length));
    }
    at.min(body.len())
}

/// The head of an answer of so many bytes; `None` if it is too long for any message.
pub(crate) fn head(length: usize, failed: bool) -> Option<[u8; ANSWER]> {
    let length = u32::try_from(length).ok().filter(|length| *length <= u32::MAX >> 1)?;
    Some((length << 1 | u32::from(failed)).to_le_bytes())
}

/// How many answers there are in a body.
///
/// # Errors
///
/// When it ends in the middle of one.
pub(crate) fn count(mut body: &[u8]) -> Result<u32, Violation> {
    let mut n = 0;
    while !body.is_empty() {
        let (answer, _) = split(body).ok_or_else(short)?;
        body = &body[ANSWER + answer.len()..];
        n += 1;
    }
    Ok(n)
}

/// The first answer of a body, and whether it is a failure.
pub(crate) fn split(body: &[u8]) -> Option<(&[u8], bool)> {
    let head = u32::from_le_bytes(*body.first_chunk()?);
    let answer = body.get(ANSWER..)?.get(..(head >> 1) as usize)?;
    Some((answer, head & 1 == 1))
}

fn short() -> Violation {
    Violation::Malformed { reason: "a pack that ends in the middle of a task".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_out_as_they_went_in() {
        let mut out = Vec::new();
        let inputs = [&b"one"[..], b"", &[7; u16::MAX as usize]];
        let put = |out: &mut Vec<u8>, input: &[u8]| put_input(out, &mut [&[0; INPUT], input].concat());
        assert!(inputs.iter().all(|input| put(&mut out, input)));
        let before = out.len();
        assert!(!put(&mut out, &[0; 1 << 16]) && out.len() == before);
        assert_eq!((span(&out, 0), span(&out, 1), span(&out, 2)), (0, 5, 7));
        assert_eq!((span(&out, 3), span(&out, 9)), (out.len(), out.len()));
        let mut body = &out[..];
        for input in inputs {
            assert_eq!(take_input(&mut body).unwrap(), input);
        }
        assert!(take_input(&mut body).is_err());
        assert!(take_input(&mut &[3, 0, 1, 2][..]).is_err(), "shorter than it says");
    }

    #[test]
    fn answers_are_counted_to_the_byte() {
        let mut out = head(3, false).unwrap().to_vec();
        out.extend_from_slice(b"out");
        out.extend_from_slice(&head(4, true).unwrap());
        out.extend_from_slice(b"fail");
        assert_eq!(count(&out), Ok(2));
        let (first, failed) = split(&out).unwrap();
        assert_eq!((first, failed), (&b"out"[..], false));
        assert_eq!(split(&out[ANSWER + 3..]), Some((&b"fail"[..], true)));
        for cut in 1..out.len() {
            assert_eq!(count(&out[..cut]).is_ok(), cut == ANSWER + 3, "cut at {cut}");
        }
        assert!(count(&[0xFF; 4]).is_err(), "longer than anything");
        assert!(head(usize::MAX, false).is_none());
    }
}
