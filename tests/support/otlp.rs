//! A receiver of traces: OTLP over HTTP, as protobuf.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// Receives traces until the test ends.
pub(crate) struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let this = Self {
            address,
            got: Arc::clone(&got),
        };
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if let Some(body) = answer(connection) {
                    got.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                }
            }
        });
        this
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests as they came.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn decoded(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests();
        requests
            .iter()
            .map(|body| ExportTraceServiceRequest::decode(body.as_slice()).unwrap())
            .collect()
    }

    pub(crate) fn resource(&self) -> Resource {
        let decoded = self.decoded();
        let resource = decoded.first().and_then(|request| request.resource_spans.first());
        resource.and_then(|spans| spans.resource.clone()).unwrap()
    }

    /// The spans of one trace, by its id in hexadecimal.
    pub(crate) fn spans(&self, trace: &str) -> Vec<Span> {
        let resources = self
            .decoded()
            .into_iter()
            .flat_map(|request| request.resource_spans);
        let spans = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        spans.filter(|span| hex(&span.trace_id) == trace).collect()
    }
}

/// Takes one request, and returns its body.
fn answer(connection: TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(connection);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let is_known =
        head.starts_with("post /v1/traces ") && head.contains("content-type: application/x-protobuf");
    let status = if is_known { "200 OK" } else { "404 Not Found" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).ok()?;
    is_known.then_some(body)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// A text attribute of a span.
pub(crate) fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}
