//! What a request must be to be a call of gRPC, and how long the call may take.
//!
//! What is not gRPC is answered in HTTP, as the protocol wants it; what is gRPC and wrong, with a status. A call that brings a
//! `grpc-timeout` ends when that is over, also one that waits or streams: what worked for it is dropped, and the caller is told
//! `DEADLINE_EXCEEDED`. See decision 19. Tested at the end of this file and in `tests/daemon/grpc.rs`.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::service::OpenCalls;
use super::status;

const TIMEOUT: &str = "grpc-timeout";
/// The protocol allows no more digits.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// Checks what came before the messages. Gives the time that the call may take, if it says one.
pub(crate) fn check<B>(request: &Request<B>) -> Result<Option<Duration>, Box<Response<Body>>> {
    if request.method() != Method::POST {
        let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED);
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return Err(Box::new(refused));
    }
    let headers = request.headers();
    if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        return Err(Box::new(answer(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
    }
    if headers
        .get(TE)
        .is_none_or(|te| te.as_bytes() != b"trailers")
    {
        let said = "te: trailers is missing in the request: what does not pass trailers on cannot carry gRPC; send it, or go around the proxy that drops it";
        return Err(Box::new(status::invalid(said).into_http()));
    }
    let mut timeouts = headers.get_all(TIMEOUT).iter();
    match (timeouts.next(), timeouts.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if let Some(time) = timeout_of(value.as_bytes()) => Ok(Some(time)),
        (Some(value), _) => {
            let said = format!(
                "grpc-timeout {value:?}: must be one value of 1 to {TIMEOUT_DIGITS_MAX} digits and one of H, M, S, m, u, n"
            );
            Err(Box::new(status::invalid(said).into_http()))
        }
    }
}

/// `application/grpc`, alone or with the name of an encoding or with parameters.
fn is_grpc(value: &HeaderValue) -> bool {
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn answer(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

fn timeout_of(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let is_number = !digits.is_empty()
        && digits.len() <= TIMEOUT_DIGITS_MAX
        && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number.saturating_mul(3600)),
        b'M' => Duration::from_secs(number.saturating_mul(60)),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// When a call must be over, by its own word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// So long from now on; none if that is further away than time goes.
    pub(crate) fn after(time: Duration) -> Option<Self> {
        let at = Instant::now().checked_add(time)?;
        Some(Self { at, after: time })
    }

    /// When that is.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// What the caller is told then.
    pub(crate) fn status(self) -> Status {
        Status::deadline_exceeded(format!(
            "the grpc-timeout of {:?} is over: the call ended; what it changed before stays",
            self.after
        ))
    }
}

/// The body of an answer; its call is open until it is dropped, and over when its deadline is.
pub(crate) struct CallBody {
    /// Gone when the call is over.
    body: Option<Body>,
    deadline: Option<(Deadline, Pin<Box<Sleep>>)>,
    _call: OpenCalls,
}

impl CallBody {
    /// The body of a call that is open.
    pub(crate) fn new(body: Body, deadline: Option<Deadline>, call: OpenCalls) -> Self {
        let deadline =
            deadline.map(|deadline| (deadline, Box::pin(tokio::time::sleep_until(deadline.at))));
        Self {
            body: Some(body),
            deadline,
            _call: call,
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let (deadline, sleep) = self.deadline.as_mut()?;
        sleep
            .as_mut()
            .poll(cx)
            .is_ready()
            .then(|| deadline.status())
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_some()
            && let Some(over) = self.poll_deadline(cx)
        {
            // The work of the call ends here: its stream is dropped with the body.
            self.body = None;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(
                over.add_header(&mut trailers)
                    .map(|()| Frame::trailers(trailers)),
            ));
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.deadline) {
            (Some(body), None) => body.size_hint(),
            // It may end earlier.
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post("/qtf.v1.Admin/GetInfo");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    const TRAILERS: (&str, &str) = ("te", "trailers");

    #[test]
    fn every_way_to_write_a_timeout_is_understood_and_nothing_else() {
        let good: [(&str, Duration); 7] = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("00000004m", Duration::from_millis(4)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("7n", Duration::from_nanos(7)),
            ("0S", Duration::ZERO),
        ];
        for (text, time) in good {
            assert_eq!(timeout_of(text.as_bytes()), Some(time), "{text}");
            let headers = [GRPC, TRAILERS, ("grpc-timeout", text)];
            assert_eq!(check(&request(&headers)).unwrap(), Some(time));
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            " 1S",
            "1 S",
            "123456789S",
            "1.5S",
            "1SS",
        ] {
            let headers = [GRPC, TRAILERS, ("grpc-timeout", text)];
            let refused = check(&request(&headers)).unwrap_err();
            assert_eq!(refused.headers()["grpc-status"], "3", "{text:?}");
        }
        let twice = [
            GRPC,
            TRAILERS,
            ("grpc-timeout", "1S"),
            ("grpc-timeout", "2S"),
        ];
        assert!(check(&request(&twice)).is_err());
    }

    #[test]
    fn what_is_not_grpc_is_told_so_in_http_and_what_is_with_a_status() {
        let cases: [(&[(&str, &str)], u16); 6] = [
            (&[TRAILERS], 415),
            (&[TRAILERS, ("content-type", "application/json")], 415),
            (&[TRAILERS, ("content-type", "application/grpc-web")], 415),
            (&[GRPC], 200),
            (&[GRPC, ("te", "gzip")], 200),
            (&[GRPC, ("te", "trailers, gzip")], 200),
        ];
        for (headers, code) in cases {
            let refused = check(&request(headers)).unwrap_err();
            assert_eq!(refused.status(), code, "{headers:?}");
            assert_eq!(refused.headers().contains_key("grpc-status"), code == 200);
        }
        let mut get = request(&[GRPC, TRAILERS]);
        *get.method_mut() = Method::GET;
        let refused = check(&get).unwrap_err();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["allow"]),
            (405, &HeaderValue::from_static("POST"))
        );
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=y",
        ] {
            assert!(
                check(&request(&[("content-type", kind), TRAILERS]))
                    .unwrap()
                    .is_none()
            );
        }
    }
}
