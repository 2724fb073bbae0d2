//! Reflection: the daemon's own description, for tools and for clients that generate nothing.
//!
//! The messages and the service's door are `tonic-reflection`'s. The answers are given here, for two reasons: what is not known is
//! answered in the stream, as the protocol has it (the library ends the stream, and with it a client that asks for several names); and
//! the older name of the service, `v1alpha`, means the same, byte for byte, and is the only one that the Python package asks for.
//!
//! Tested in `tests/daemon/services.rs`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Code, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// The service's name.
pub(super) const NAME: &str = "grpc.reflection.v1.ServerReflection";
/// Its name before; the messages are the same.
pub(super) const NAME_BEFORE: &str = "grpc.reflection.v1alpha.ServerReflection";

/// All that can be asked for.
#[derive(Debug, Default)]
struct Index {
    /// Encoded files by their names.
    files: BTreeMap<String, Bytes>,
    /// The file of each service, call, message, field, enum and value.
    symbols: BTreeMap<String, Bytes>,
    services: Vec<String>,
}

/// Answers from the index.
#[derive(Debug, Clone)]
pub(super) struct Reflection(Arc<Index>);

/// The service over these sets of descriptors. One that cannot be decoded is left out; they are compiled in, and a test asks for
/// each service.
pub(super) fn service(sets: &[&[u8]]) -> ServerReflectionServer<Reflection> {
    let mut index = Index::default();
    for set in sets {
        for file in FileDescriptorSet::decode(*set).unwrap_or_default().file {
            index.add(&file);
        }
    }
    ServerReflectionServer::new(Reflection(Arc::new(index)))
}

/// The request by the service's present name.
pub(super) fn renamed<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path().replacen(NAME_BEFORE, NAME, 1);
    if let Ok(path) = PathAndQuery::try_from(path) {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

impl Index {
    fn add(&mut self, file: &FileDescriptorProto) {
        let bytes = Bytes::from(file.encode_to_vec());
        self.files.insert(file.name().to_owned(), bytes.clone());
        let package = file.package();
        for service in &file.service {
            let name = within(package, service.name());
            for method in &service.method {
                self.name(within(&name, method.name()), &bytes);
            }
            self.services.push(name.clone());
            self.name(name, &bytes);
        }
        for message in &file.message_type {
            self.add_message(package, message, &bytes);
        }
        for one in &file.enum_type {
            self.add_enum(package, one, &bytes);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: &Bytes) {
        let name = within(scope, message.name());
        for field in &message.field {
            self.name(within(&name, field.name()), file);
        }
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for one in &message.enum_type {
            self.add_enum(&name, one, file);
        }
        self.name(name, file);
    }

    /// The values of an enum are names of the scope that it stands in.
    fn add_enum(&mut self, scope: &str, one: &prost_types::EnumDescriptorProto, file: &Bytes) {
        for value in &one.value {
            self.name(within(scope, value.name()), file);
        }
        self.name(within(scope, one.name()), file);
    }

    fn name(&mut self, symbol: String, file: &Bytes) {
        self.symbols.insert(symbol, file.clone());
    }

    fn answer(&self, request: ServerReflectionRequest) -> ServerReflectionResponse {
        let answer = match &request.message_request {
            Some(MessageRequest::FileByFilename(name)) => self.file(self.files.get(name), name),
            Some(MessageRequest::FileContainingSymbol(name)) => {
                self.file(self.symbols.get(name.trim_start_matches('.')), name)
            }
            Some(MessageRequest::ListServices(_)) => {
                let name = |name: &String| ServiceResponse { name: name.clone() };
                MessageResponse::ListServicesResponse(ListServiceResponse {
                    service: self.services.iter().map(name).collect(),
                })
            }
            // There are none in proto3 files like ours; tools ask all the same, and take a refusal for a fault.
            Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
                MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })
            }
            Some(MessageRequest::FileContainingExtension(_)) => {
                refusal(Code::NotFound, "there are no extensions here".to_owned())
            }
            None => refusal(
                Code::InvalidArgument,
                "message_request is missing: ask for a file, a symbol or the services".to_owned(),
            ),
        };
        ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(answer),
        }
    }

    fn file(&self, found: Option<&Bytes>, asked: &str) -> MessageResponse {
        match found {
            Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![file.to_vec()],
            }),
            None => {
                let asked: String = asked.chars().take(200).collect();
                let services = self.services.join(", ");
                refusal(
                    Code::NotFound,
                    format!("`{asked}` is not known here: the services are {services}"),
                )
            }
        }
    }
}

fn within(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

fn refusal(code: Code, error_message: String) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: code.into(),
        error_message,
    })
}

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        requests: tonic::Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let index = Arc::clone(&self.0);
        let answers = requests
            .into_inner()
            .map(move |request| request.map(|request| index.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}
