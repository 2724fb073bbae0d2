//! The standard services, and paths that lead nowhere.

use prost::Message as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{connect, on_both, small};

#[test]
fn health_says_that_each_service_serves() {
    on_both(&small(), |daemon| async move {
        let mut health = HealthClient::new(connect(&daemon).await);
        for service in [
            "",
            "qtf.v1.Plm",
            "qtf.v1.Scheduler",
            "qtf.v1.Register",
            "qtf.v1.Admin",
        ] {
            let request = HealthCheckRequest {
                service: service.into(),
            };
            let response = health.check(request).await.unwrap().into_inner();
            assert_eq!(response.status, 1, "{service}");
        }
    });
}

#[test]
fn reflection_lists_the_four_services() {
    on_both(&small(), |daemon| async move {
        let mut reflection = ServerReflectionClient::new(connect(&daemon).await);
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = reflection
            .server_reflection_info(tokio_stream::iter([request]))
            .await
            .unwrap()
            .into_inner();
        let answer = answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .message_response
            .unwrap();
        let MessageResponse::ListServicesResponse(list) = answer else {
            panic!("{answer:?}")
        };
        for name in [
            "qtf.v1.Plm",
            "qtf.v1.Scheduler",
            "qtf.v1.Register",
            "qtf.v1.Admin",
        ] {
            assert!(
                list.service.iter().any(|service| service.name == name),
                "{name}"
            );
        }
    });
}

#[test]
fn service_that_does_not_exist_is_unimplemented() {
    on_both(&small(), |daemon| async move {
        let channel = connect(&daemon).await;
        let mut raw = tonic::client::Grpc::new(channel);
        for path in ["/no.such.Service/Call", "/qtf.v1.Plm/NoSuchCall", "/"] {
            raw.ready().await.unwrap();
            let codec =
                tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
            let request = tonic::Request::new(HealthCheckRequest::default());
            let path = http::uri::PathAndQuery::from_static(path);
            let status = raw.unary(request, path, codec).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unimplemented);
        }
    });
}

/// Asks one thing after the other in one stream; the answers.
async fn reflected(
    reflection: &mut ServerReflectionClient<tonic::transport::Channel>,
    asked: Vec<MessageRequest>,
) -> Vec<MessageResponse> {
    let requests = asked.into_iter().map(|one| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(one),
    });
    let requests: Vec<_> = requests.collect();
    let call = reflection.server_reflection_info(tokio_stream::iter(requests));
    let mut answers = call.await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        said.push(answer.message_response.unwrap());
    }
    said
}

#[test]
fn reflection_answers_in_the_stream_what_it_does_not_know_and_goes_on() {
    on_both(&small(), |daemon| async move {
        let mut reflection = ServerReflectionClient::new(connect(&daemon).await);
        let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
        let known = [
            "qtf.v1.Plm",
            "qtf.v1.Plm.Watch",
            "qtf.v1.TaskSpec",
            ".qtf.v1.TaskSpec.kind",
            "qtf.v1.OutcomeKind",
            "qtf.v1.OUTCOME_KIND_EXITED",
            "grpc.health.v1.Health",
        ];
        let mut asked = vec![symbol("qtf.v1.Nothing")];
        asked.extend(known.map(symbol));
        asked.push(MessageRequest::FileByFilename(
            "qtf/v1/task.proto".to_owned(),
        ));
        asked.push(MessageRequest::FileByFilename("no.proto".to_owned()));
        let said = reflected(&mut reflection, asked).await;
        assert_eq!(said.len(), 3 + known.len());
        for (place, answer) in said.iter().enumerate() {
            match answer {
                MessageResponse::ErrorResponse(error) => {
                    assert!(place == 0 || place == said.len() - 1, "{place}: {error:?}");
                    assert_eq!(error.error_code, i32::from(tonic::Code::NotFound));
                    assert!(error.error_message.contains("qtf.v1.Plm"), "{error:?}");
                }
                MessageResponse::FileDescriptorResponse(files) => {
                    let file = &files.file_descriptor_proto[0];
                    let file = prost_types::FileDescriptorProto::decode(&file[..]).unwrap();
                    assert!(file.name().ends_with(".proto"));
                }
                other @ (MessageResponse::AllExtensionNumbersResponse(_)
                | MessageResponse::ListServicesResponse(_)) => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn older_name_of_the_reflection_service_means_the_same() {
    use before::server_reflection_request::MessageRequest as Asked;
    use before::server_reflection_response::MessageResponse as Said;
    use tonic_reflection::pb::v1alpha as before;

    on_both(&small(), |daemon| async move {
        let channel = connect(&daemon).await;
        let mut reflection = before::server_reflection_client::ServerReflectionClient::new(channel);
        let request = before::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(Asked::FileContainingSymbol("qtf.v1.Admin".to_owned())),
        };
        let call = reflection.server_reflection_info(tokio_stream::iter([request]));
        let answer = call.await.unwrap().into_inner().message().await.unwrap();
        let answer = answer.unwrap().message_response.unwrap();
        assert!(
            matches!(answer, Said::FileDescriptorResponse(_)),
            "{answer:?}"
        );
    });
}
