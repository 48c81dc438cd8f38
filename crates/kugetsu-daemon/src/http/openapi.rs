//! The OpenAPI document of the API, made from the table of operations and from the types of the bodies.
//!
//! The types have JSON Schemas already (schemars), which OpenAPI 3.1 takes as they are. A second description of each type
//! (utoipa's) could say something else.

use kugetsu_api::{ProblemDetails, Scope};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::operations::{self, Operation, Success};

/// What the document says at its beginning.
const DESCRIPTION: &str = "\
Sessions of opencode by issue, and a queue of tasks for them. \
The owner of the daemon needs no token over the socket and over loopback; everybody else does. \
Errors are documents of RFC 9457, whose `code` is that of the command line.";

/// The document, as the daemon serves it and as it is checked in.
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let mut bodies = Vec::new();
    for operation in operations::all() {
        let described = describe(&operation, &mut generator);
        let body = described.pointer("/requestBody/content/application~1json/schema/$ref");
        bodies.extend(body.and_then(Value::as_str).map(str::to_owned));
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.name()] = described;
    }
    let problem = of::<ProblemDetails>(&mut generator);
    let mut schemas = generator.take_definitions(true);
    for body in bodies {
        let name = body.rsplit('/').next().unwrap_or_default();
        if let Some(schema) = schemas.get_mut(name) {
            leave_out_defaults(schema);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kugetsu",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "The request was not carried out",
                    "content": {"application/problem+json": {"schema": problem}},
                },
            },
        },
    })
}

/// Takes the defaults from the fields of a request's body. Generators of clients take a field with a default for one that
/// is always there, as it is in an answer. A request may leave it out.
fn leave_out_defaults(schema: &mut Value) {
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    for field in fields.into_iter().flat_map(Map::values_mut) {
        if let Some(field) = field.as_object_mut() {
            field.remove("default");
        }
    }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {"default": {"$ref": "#/components/responses/Problem"}},
    });
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = operation.body {
        let schema = body(generator).to_value();
        described["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}},
        });
    }
    for (status, response) in responses(operation.success, generator) {
        described["responses"][status.to_string()] = response;
    }
    match operation.scope {
        None => described["security"] = json!([]),
        // Without a token, for the owner.
        Some(scope) => {
            described["security"] = json!([{}, {"token": []}]);
            described["description"] = format!("A token needs the scope `{}`.", needed(scope)).into();
        }
    }
    described
}

fn needed(scope: Scope) -> String {
    let enough: Vec<_> = Scope::ALL.into_iter().filter(|own| *own >= scope).collect();
    let names: Vec<_> = enough.iter().map(|scope| scope.as_str()).collect();
    names.join("` or `")
}

/// The parameters in the path, the query and the headers.
fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in operation
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    {
        let meaning = match name {
            "task" => "The id of a task, or the beginning or end of it.",
            _ => "The address of a session, percent-encoded: `github.com%2Fowner%2Frepo%2314`.",
        };
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": meaning, "schema": {"type": "string"},
        }));
    }
    if let Some(query) = operation.query {
        // The fields of the type, which is not a component itself.
        let mut own = SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator();
        let schema = query(&mut own).to_value();
        let fields = schema["properties"].as_object().cloned().unwrap_or_default();
        for (name, mut field) in fields {
            let description = field
                .as_object_mut()
                .and_then(|field| field.remove("description"));
            parameters.push(json!({
                "name": name, "in": "query", "required": false,
                "description": description.unwrap_or_default(), "schema": field,
            }));
        }
    }
    for (name, meaning) in operation.headers {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": meaning, "schema": {"type": "string"},
        }));
    }
    parameters
}

fn responses(success: Success, generator: &mut SchemaGenerator) -> Vec<(u16, Value)> {
    let mut events = || {
        let event = operations::event(generator).to_value();
        json!({
            "description": "Events: as server-sent events if the request accepts them, or one JSON object a line",
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": event},
            },
        })
    };
    match success {
        Success::Json(status, schema) => vec![(status, document(&schema(generator)))],
        Success::JsonOrEvents(status, schema) => {
            let events = events();
            vec![(status, document(&schema(generator))), (200, events)]
        }
        Success::Events => vec![(200, events())],
        Success::Other(media, what) => {
            let schema = if media == "application/json" {
                json!({})
            } else {
                json!({"type": "string"})
            };
            vec![(
                200,
                json!({"description": what, "content": {media: {"schema": schema}}}),
            )]
        }
        Success::Empty(status) => vec![(status, json!({"description": "Done, or begun"}))],
    }
}

fn document(schema: &Schema) -> Value {
    json!({"description": "Done", "content": {"application/json": {"schema": schema}}})
}
