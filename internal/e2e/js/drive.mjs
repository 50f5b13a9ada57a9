// Stands in for a client in the conformance suite: tells the test, by a request to the address given first, which server the suite has
// started (its address comes last), and waits until the test is done with it.
const [driver, server] = [process.argv[2], process.argv.at(-1)];
const query = new URLSearchParams({ server, context: process.env.MCP_CONFORMANCE_CONTEXT ?? "" });
const answer = await fetch(`${driver}?${query}`);
console.log(await answer.text());
process.exit(answer.ok ? 0 : 1);
