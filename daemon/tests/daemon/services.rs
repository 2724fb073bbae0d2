//! The standard services, and paths that lead nowhere.

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
