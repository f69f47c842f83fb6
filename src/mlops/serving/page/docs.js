// Shows the service's OpenAPI document in Swagger UI.
"use strict";
const here = new URL(".", location.href).href.slice(0, -1); // includes the path that a proxy adds
fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => SwaggerUIBundle({ spec: { ...spec, servers: [{ url: here }] }, dom_id: "#interface", deepLinking: true }));
