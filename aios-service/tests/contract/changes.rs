//! Changes of a small document, and whether they break clients.

use serde_json::{Value, json};

use super::compatibility::breaks;

/// A document with one of each part that clients use.
fn document() -> Value {
    json!({
        "paths": { "/pets": { "post": {
            "operationId": "add_pet",
            "security": [{ "bearer": ["pets:write"] }, { "api_key": ["pets:write"] }],
            "parameters": [
                { "name": "limit", "in": "query", "schema": { "type": "integer", "minimum": 1, "maximum": 100 } },
                { "name": "kind", "in": "query", "required": true, "schema": { "enum": ["cat", "dog"] } },
            ],
            "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/PetBody" } } } },
            "responses": {
                "201": {
                    "headers": { "location": { "schema": { "type": "string" } } },
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Pet" } } },
                },
                "404": { "$ref": "#/components/responses/Error" },
            },
        } } },
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" }, "api_key": { "type": "apiKey", "in": "header", "name": "X" } },
            "responses": { "Error": { "content": { "application/json": { "schema": { "type": "object" } } } } },
            "schemas": {
                "PetBody": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["name"],
                    "properties": {
                        "name": { "type": "string", "minLength": 1, "maxLength": 9, "pattern": "^[a-z]+$" },
                        "age": { "type": ["integer", "null"], "default": 1 },
                        "size": { "enum": ["small", "large"] },
                        "labels": { "type": "object", "additionalProperties": { "type": ["string", "null"] } },
                        "mother": { "oneOf": [{ "$ref": "#/components/schemas/PetBody" }, { "type": "null" }] },
                    },
                },
                "Pet": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {
                        "status": { "$ref": "#/components/schemas/Status" },
                        "weight": { "type": "integer", "minimum": 1 },
                        "tags": { "type": "array", "items": { "type": "string" } },
                        "toys": { "type": "object", "additionalProperties": false, "properties": { "ball": { "type": "boolean" } } },
                    },
                },
                "Status": { "type": "string", "enum": ["here", "sold"] },
            },
        },
    })
}

const OPERATION: &str = "/paths/~1pets/post";
const BODY: &str = "/components/schemas/PetBody";
const PET: &str = "/components/schemas/Pet";

/// The breaks after the values at some pointers were replaced; `null` removes one.
fn after(changes: &[(&str, &str, Value)]) -> Vec<String> {
    let mut changed = document();
    for (base, pointer, value) in changes {
        let pointer = format!("{base}{pointer}");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = changed.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {pointer}"));
        let key = key.replace("~1", "/");
        match (parent, value) {
            (Value::Object(parent), Value::Null) => {
                assert!(parent.remove(&key).is_some(), "{pointer}")
            }
            (Value::Array(parent), Value::Null) => drop(parent.remove(key.parse().unwrap())),
            (Value::Array(parent), value) => parent[key.parse::<usize>().unwrap()] = value.clone(),
            (parent, value) => parent[&key] = value.clone(),
        }
    }
    breaks(&document(), &changed).iter().map(ToString::to_string).collect()
}

#[test]
fn should_find_no_breaks_in_the_same_document() {
    assert_eq!(after(&[]), Vec::<String>::new());
}

#[test]
fn should_accept_changes_that_no_client_notices() {
    let status = "/components/schemas/Status";
    for change in [
        ("", "/paths/~1cats", json!({ "get": {} })),
        ("/paths/~1pets", "/get", json!({ "responses": {} })),
        (OPERATION, "/summary", json!("Add a pet")),
        (OPERATION, "/responses/429", json!({})),
        (OPERATION, "/responses/201/headers/etag", json!({})),
        (OPERATION, "/security/0/bearer", json!([])),
        (OPERATION, "/security", json!([])),
        (OPERATION, "/parameters/1/required", json!(false)),
        (OPERATION, "/parameters/0/schema/maximum", json!(1000)),
        (OPERATION, "/parameters/0/schema/minimum", Value::Null),
        (OPERATION, "/parameters/1/schema/enum", json!(["cat", "dog", "cow"])),
        ("", "/components/securitySchemes/mutual", json!({ "type": "mutualTLS" })),
        (BODY, "/description", json!("A pet.")),
        (BODY, "/required", json!([])),
        (BODY, "/additionalProperties", Value::Null),
        (BODY, "/properties/color", json!({ "type": "string" })),
        (BODY, "/properties/name/type", json!(["string", "null"])),
        (BODY, "/properties/name/pattern", Value::Null),
        (BODY, "/properties/age/type", json!(["number", "null"])),
        (BODY, "/properties/size", json!({ "enum": ["large", "medium", "small"] })),
        (
            BODY,
            "/properties/size",
            json!({ "oneOf": [{ "enum": ["small", "large"] }, { "type": "null" }] }),
        ),
        (BODY, "/properties/mother", json!({})),
        (PET, "/required", json!(["status", "weight"])),
        (PET, "/properties/color", json!({ "type": "string" })),
        (PET, "/properties/weight/minimum", json!(2)),
        (PET, "/properties/weight/maximum", json!(9)),
        (status, "/enum", json!(["here"])),
    ] {
        assert_eq!(after(std::slice::from_ref(&change)), Vec::<String>::new(), "{change:?}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of changes")]
fn should_find_breaks_of_operations() {
    for (pointer, value, expected) in [
        ("", Value::Null, "POST /pets: is removed"),
        (
            "/operationId",
            json!("create_pet"),
            r#"POST /pets: `operationId` was "add_pet", is "create_pet""#,
        ),
        (
            "/security/0",
            Value::Null,
            r#"POST /pets: {"bearer":["pets:write"]} was enough, and one of [{"api_key":["pets:write"]}] is needed"#,
        ),
        (
            "/security/1/api_key",
            json!(["pets:write", "pets:admin"]),
            r#"POST /pets: {"api_key":["pets:write"]} was enough, and one of [{"bearer":["pets:write"]},{"api_key":["pets:write","pets:admin"]}] is needed"#,
        ),
        ("/parameters/0", Value::Null, "POST /pets query parameter limit: is removed"),
        ("/parameters/0/required", json!(true), "POST /pets query parameter limit: is required"),
        ("/parameters/0/in", json!("header"), "POST /pets query parameter limit: is removed"),
        (
            "/parameters/0/schema/maximum",
            json!(50),
            "POST /pets query parameter limit $: `maximum` was 100, is 50",
        ),
        (
            "/parameters/0/schema/minimum",
            json!(2),
            "POST /pets query parameter limit $: `minimum` was 1, is 2",
        ),
        (
            "/parameters/0/schema/multipleOf",
            json!(2),
            "POST /pets query parameter limit $: `multipleOf` was absent, is 2",
        ),
        (
            "/parameters/1/schema/enum",
            json!(["cat"]),
            r#"POST /pets query parameter kind $: `enum` was ["cat","dog"], is ["cat"]"#,
        ),
        ("/requestBody/required", json!(true), "POST /pets request: is required"),
        ("/requestBody", Value::Null, "POST /pets request: application/json is removed"),
        ("/responses/201", Value::Null, "POST /pets response 201: is removed"),
        ("/responses/202", json!({}), "POST /pets response 202: is a new kind of success"),
        ("/responses/404", Value::Null, "POST /pets response 404: is removed"),
        (
            "/responses/201/headers/location",
            Value::Null,
            "POST /pets response 201 header location: is removed",
        ),
        (
            "/responses/201/content",
            json!({ "text/plain": {} }),
            "POST /pets response 201: application/json is removed",
        ),
    ] {
        assert_eq!(after(&[(OPERATION, pointer, value)]), [expected]);
    }
    let required = json!({ "name": "zone", "in": "query", "required": true });
    let parameters = json!([
        document().pointer(&format!("{OPERATION}/parameters/0")),
        document().pointer(&format!("{OPERATION}/parameters/1")),
        required
    ]);
    assert_eq!(
        after(&[(OPERATION, "/parameters", parameters)]),
        ["POST /pets query parameter zone: is required"]
    );
    assert_eq!(after(&[("", "/paths/~1pets", Value::Null)]), ["POST /pets: is removed"]);
    let schemes = "/components/securitySchemes";
    assert_eq!(after(&[(schemes, "/bearer", Value::Null)]), ["security scheme bearer: is removed"]);
    assert_eq!(after(&[(schemes, "/api_key/name", json!("Y"))]).len(), 1);
    assert_eq!(
        after(&[(
            "/components/responses/Error/content/application~1json",
            "/schema/type",
            json!("string")
        )]),
        [r#"POST /pets response 404 $: `type` was "object", is "string""#]
    );
}

#[test]
fn should_find_breaks_of_public_operations() {
    let mut public = document();
    public["paths"]["/pets"]["post"]["security"] = json!([]);
    let breaks = breaks(&public, &document());
    assert_eq!(breaks.len(), 1);
    assert!(breaks[0].to_string().contains("{} was enough"), "{}", breaks[0]);
}

#[test]
fn should_find_breaks_of_requests() {
    for (pointer, value, expected) in [
        ("/required", json!(["name", "age"]), "$.age: is required"),
        ("/properties/age", Value::Null, "$.age: is removed"),
        (
            "/properties/age/type",
            json!("integer"),
            r#"$.age: `type` was ["integer","null"], is "integer""#,
        ),
        ("/properties/age/default", json!(2), "$.age: `default` was 1, is 2"),
        ("/properties/name/maxLength", json!(8), "$.name: `maxLength` was 9, is 8"),
        ("/properties/name/minLength", json!(2), "$.name: `minLength` was 1, is 2"),
        (
            "/properties/name/pattern",
            json!("^[a-y]+$"),
            r#"$.name: `pattern` was "^[a-z]+$", is "^[a-y]+$""#,
        ),
        (
            "/properties/size/enum",
            json!(["small"]),
            r#"$.size: `enum` was ["small","large"], is ["small"]"#,
        ),
        (
            "/properties/labels/additionalProperties",
            json!(false),
            r#"$.labels.*: `additionalProperties` was {"type":["string","null"]}, is false"#,
        ),
        (
            "/properties/labels/additionalProperties/type",
            json!("string"),
            r#"$.labels.*: `type` was ["string","null"], is "string""#,
        ),
        ("/properties/mother/oneOf/1", Value::Null, r#"$.mother: `type` was "null", is "object""#),
    ] {
        let found = after(&[(BODY, pointer, value)]);
        assert_eq!(found, [format!("POST /pets request {expected}")], "{pointer}");
    }
}

#[test]
fn should_find_breaks_of_responses() {
    let status = "/components/schemas/Status";
    for (base, pointer, value, expected) in [
        (
            status,
            "/enum",
            json!(["here", "sold", "lost"]),
            r#"$.status: `enum` was ["here","sold"], is ["here","sold","lost"]"#,
        ),
        (status, "/enum", Value::Null, r#"$.status: `enum` was ["here","sold"], is absent"#),
        (
            status,
            "/type",
            json!(["string", "null"]),
            r#"$.status: `type` was "string", is ["string","null"]"#,
        ),
        (PET, "/properties/weight", Value::Null, "$.weight: is removed"),
        (
            PET,
            "/properties/weight/type",
            json!("number"),
            r#"$.weight: `type` was "integer", is "number""#,
        ),
        (PET, "/properties/weight/minimum", json!(0), "$.weight: `minimum` was 1, is 0"),
        (
            PET,
            "/properties/tags/items/type",
            json!("integer"),
            r#"$.tags[]: `type` was "string", is "integer""#,
        ),
        (
            PET,
            "/properties/toys/properties/bone",
            json!({}),
            "$.toys.bone: is new, and the object had no others",
        ),
        (
            PET,
            "/properties/toys/additionalProperties",
            Value::Null,
            "$.toys.*: `additionalProperties` was false, is true",
        ),
        (PET, "/required", json!([]), "$.status: may be missing"),
    ] {
        let found = after(&[(base, pointer, value)]);
        assert_eq!(found, [format!("POST /pets response 201 {expected}")], "{base}{pointer}");
    }
}
