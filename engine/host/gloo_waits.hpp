// Ends the waits of Gloo from outside.
//
// When a connection fails, Gloo tells the operations that have not begun, but not the one whose
// message is partly sent or received: gloo/transport/tcp/pair.cc, Pair::signalException. A rank
// that receives a large tensor from one that dies waits for the timeout of its group then, half an
// hour. Gloo's buffers can be told to stop waiting (abortWaitRecv, abortWaitSend), but nobody
// outside a collective knows them. So their virtual functions waitRecv and waitSend are replaced in
// the table by ours, which remember who waits. All of it is found by name in torch's library,
// without headers.
//
// The functions of a table have no place for a context, so what is known stands for the process.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace ddipp::engine::gloo_waits {

// Replaces the functions, once torch is loaded; later calls do nothing. Returns "" or why it can't
// be done: a few words. Main thread.
std::string install();

// From now on waits are as Gloo has them. Any thread.
void allow();

// Whatever waits fails with an exception ("aborted"), and whatever begins to until allow(), since
// a collective waits more than once. Any thread.
void abort();

// How long the longest of the present waits has lasted; 0 when nothing waits. Any thread.
std::chrono::steady_clock::duration oldest();

// What the waits said that have failed since forget_failures(), the last ones. An exception with
// one of these texts comes from a collective, whoever passes it on. Any thread.
std::vector<std::string> failures();
void forget_failures();

}  // namespace ddipp::engine::gloo_waits
