// Sends requests to a provider for tests with the official clients, and prints what they understand.
//
//     node clients.mjs <base URL for OpenAI clients> <base URL for Anthropic clients>

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [openaiUrl, anthropicUrl] = process.argv.slice(2);
const settings = { apiKey: "key", maxRetries: 0 };
const openai = new OpenAI({ ...settings, baseURL: openaiUrl });
const anthropic = new Anthropic({ ...settings, baseURL: anthropicUrl });

const messages = [{ role: "user", content: "What is new?" }];
const asks = {
    chat: { model: "large", messages },
    responses: { model: "large", input: "What is new?" },
    messages: { model: "large", max_tokens: 9, messages },
};

/** The text and the calls of each response, whole and as a stream. */
async function understand() {
    const chat = (it) => ({
        text: it.choices[0].message.content,
        calls: it.choices[0].message.tool_calls.map((call) => JSON.parse(call.function.arguments)),
        usage: [it.usage.prompt_tokens, it.usage.completion_tokens],
    });
    const responses = (it) => ({
        text: it.output_text,
        calls: it.output
            .filter((item) => item.type === "function_call")
            .map((call) => JSON.parse(call.arguments)),
        usage: [it.usage.input_tokens, it.usage.output_tokens],
    });
    const message = (it) => ({
        text: it.content.find((block) => block.type === "text").text,
        calls: it.content.filter((block) => block.type === "tool_use").map((block) => block.input),
        usage: [it.usage.input_tokens, it.usage.output_tokens],
    });
    return [
        chat(await openai.chat.completions.create(asks.chat)),
        chat(
            await openai.chat.completions
                .stream({ ...asks.chat, stream_options: { include_usage: true } })
                .finalChatCompletion(),
        ),
        responses(await openai.responses.create(asks.responses)),
        responses(await openai.responses.stream(asks.responses).finalResponse()),
        message(await anthropic.messages.create(asks.messages)),
        message(await anthropic.messages.stream(asks.messages).finalMessage()),
    ];
}

/** The names of the errors of each client for one fault. */
async function fail() {
    const names = [];
    for (const ask of [
        () => openai.chat.completions.create(asks.chat),
        () => openai.responses.create(asks.responses),
        () => anthropic.messages.create(asks.messages),
    ]) {
        await assert.rejects(ask, (error) => names.push(error.constructor.name) > 0);
    }
    return names;
}

const understood = await understand();
const faults = [];
for (let fault = 0; fault < 6; fault += 1) {
    faults.push(await fail());
}
console.log(JSON.stringify({ understood, faults }));
