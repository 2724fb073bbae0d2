//! The contract of today against each that was given out: what is in `proto/descriptors` must go on working unchanged.
//!
//! A program made from a set of descriptors finds the same services and calls, and reads and writes the same bytes for the same
//! fields. That it really runs against the daemon of today is tried in `tests/tests/conformance`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

/// All that has a name, by its full name.
#[derive(Default)]
struct Contract {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    calls: BTreeMap<String, MethodDescriptorProto>,
}

impl Contract {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut contract = Self::default();
        for file in &set.file {
            for service in &file.service {
                for call in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), call.name());
                    contract.calls.insert(name, call.clone());
                }
            }
            for message in &file.message_type {
                contract.add(file.package(), message);
            }
            for one in &file.enum_type {
                let name = format!("{}.{}", file.package(), one.name());
                contract.enums.insert(name, one.clone());
            }
        }
        contract
    }

    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        for one in &message.enum_type {
            let name = format!("{name}.{}", one.name());
            self.enums.insert(name, one.clone());
        }
        self.messages.insert(name, message.clone());
    }
}

/// What a program made from `before` would notice of `now`.
fn broken(before: &FileDescriptorSet, now: &FileDescriptorSet) -> Vec<String> {
    let (before, now) = (Contract::of(before), Contract::of(now));
    let mut broken = Vec::new();
    for (name, call) in &before.calls {
        match now.calls.get(name) {
            None => broken.push(format!("call {name} is gone")),
            Some(other) if shape(call) != shape(other) => {
                broken.push(format!("call {name} takes or gives something else"));
            }
            Some(_) => {}
        }
    }
    for (name, message) in &before.messages {
        let Some(other) = now.messages.get(name) else {
            broken.push(format!("message {name} is gone"));
            continue;
        };
        for field in &message.field {
            broken.extend(changed_field(name, field, other));
        }
        for field in &other.field {
            broken.extend(taken_number(name, field, message));
        }
    }
    for (name, one) in &before.enums {
        let Some(other) = now.enums.get(name) else {
            broken.push(format!("enum {name} is gone"));
            continue;
        };
        for value in &one.value {
            let found = other.value.iter().find(|now| now.name() == value.name());
            if found.map(|found| found.number()) != Some(value.number()) {
                let (value, number) = (value.name(), value.number());
                broken.push(format!("{name}: {value} is not {number} any more"));
            }
        }
    }
    broken
}

fn shape(call: &MethodDescriptorProto) -> (&str, &str, bool, bool) {
    (
        call.input_type(),
        call.output_type(),
        call.client_streaming(),
        call.server_streaming(),
    )
}

/// What its bytes and its name depend on. That a field becomes `optional` changes neither.
fn wire(field: &FieldDescriptorProto) -> (&str, i32, i32, &str, bool) {
    let repeated = field.label() == prost_types::field_descriptor_proto::Label::Repeated;
    (
        field.name(),
        field.number(),
        field.r#type().into(),
        field.type_name(),
        repeated,
    )
}

fn changed_field(
    message: &str,
    field: &FieldDescriptorProto,
    now: &DescriptorProto,
) -> Option<String> {
    let found = now.field.iter().find(|other| other.name() == field.name());
    match found {
        Some(other) if wire(other) == wire(field) => None,
        Some(other) => Some(format!(
            "{message}.{} was {:?} and is {:?}",
            field.name(),
            wire(field),
            wire(other)
        )),
        // A field may go when nobody can take its number or its name again.
        None if is_reserved(field, now) => None,
        None => Some(format!(
            "{message}.{} is gone and not reserved by number and name",
            field.name()
        )),
    }
}

/// A new field may not have the number of another one from before.
fn taken_number(
    message: &str,
    field: &FieldDescriptorProto,
    before: &DescriptorProto,
) -> Option<String> {
    let other = before
        .field
        .iter()
        .find(|other| other.number() == field.number())?;
    (other.name() != field.name()).then(|| {
        format!(
            "{message}: number {} was {} and is {}",
            field.number(),
            other.name(),
            field.name()
        )
    })
}

fn is_reserved(field: &FieldDescriptorProto, now: &DescriptorProto) -> bool {
    let number = field.number();
    let mut ranges = now.reserved_range.iter();
    ranges.any(|range| (range.start()..range.end()).contains(&number))
        && now.reserved_name.iter().any(|name| name == field.name())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors")
}

fn given_out() -> Vec<(PathBuf, FileDescriptorSet)> {
    let entries = std::fs::read_dir(folder()).expect("the folder is tracked");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "binpb")
    });
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("it can be read");
        let set = FileDescriptorSet::decode(bytes.as_slice()).expect("it is a set");
        (path, set)
    };
    paths.into_iter().map(read).collect()
}

fn today() -> FileDescriptorSet {
    FileDescriptorSet::decode(qtf_proto::DESCRIPTORS).expect("it is a set")
}

#[test]
fn contract_of_today_keeps_every_one_that_was_given_out() {
    let given_out = given_out();
    assert!(!given_out.is_empty(), "{} is empty", folder().display());
    for (path, before) in given_out {
        assert!(Contract::of(&before).calls.len() >= 20, "it says little");
        let broken = broken(&before, &today());
        assert!(broken.is_empty(), "{}: {broken:#?}", path.display());
    }
}

/// Changes one message of today's.
fn with_message(name: &str, change: impl FnOnce(&mut DescriptorProto)) -> FileDescriptorSet {
    let mut set = today();
    let messages = set
        .file
        .iter_mut()
        .flat_map(|file| file.message_type.iter_mut());
    let mut found = messages.filter(|message| message.name() == name);
    change(found.next().expect("there is one"));
    set
}

#[test]
fn every_sort_of_break_is_noticed() {
    let notices = |now: &FileDescriptorSet, text: &str| {
        let broken = broken(&today(), now);
        assert!(broken.iter().any(|line| line.contains(text)), "{broken:?}");
    };
    notices(
        &with_message("TaskSpec", |spec| {
            spec.field.remove(0);
        }),
        "TaskSpec.kind is gone",
    );
    notices(
        &with_message("TaskSpec", |spec| spec.field[0].set_type(bytes())),
        "TaskSpec.kind was",
    );
    notices(
        &with_message("TaskSpec", |spec| spec.field[0].number = Some(99)),
        "TaskSpec.kind was",
    );
    notices(
        &with_message("TaskSpec", |spec| {
            spec.field[0].name = Some("sort".to_owned());
        }),
        "number 1 was kind and is sort",
    );
    let mut now = today();
    for service in now.file.iter_mut().flat_map(|file| file.service.iter_mut()) {
        service.method.retain(|call| call.name() != "Watch");
        service.method[0].server_streaming = Some(true);
    }
    notices(&now, "call qtf.v1.Plm/Watch is gone");
    notices(&now, "call qtf.v1.Plm/SubmitTask takes or gives");
    let mut now = today();
    for one in now
        .file
        .iter_mut()
        .flat_map(|file| file.enum_type.iter_mut())
    {
        one.value[1].number = Some(77);
    }
    notices(&now, "is not 1 any more");
}

#[test]
fn what_is_added_breaks_nothing_and_a_reserved_field_may_go() {
    let added = with_message("TaskSpec", |spec| {
        let mut field = spec.field[0].clone();
        field.name = Some("fresh".to_owned());
        field.number = Some(99);
        spec.field.push(field);
    });
    assert_eq!(broken(&today(), &added), [""; 0]);
    assert_ne!(broken(&added, &today()), [""; 0]);
    let gone = with_message("TaskSpec", |spec| {
        let field = spec.field.remove(0);
        spec.reserved_name.push(field.name().to_owned());
        spec.reserved_range
            .push(prost_types::descriptor_proto::ReservedRange {
                start: Some(1),
                end: Some(2),
            });
    });
    assert_eq!(broken(&today(), &gone), [""; 0]);
}

fn bytes() -> prost_types::field_descriptor_proto::Type {
    prost_types::field_descriptor_proto::Type::Bytes
}
