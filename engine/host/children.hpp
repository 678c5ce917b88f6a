// The processes that this one has started.
#pragma once

namespace ddipp::engine {

// Sends a signal to all of them that are in this process's group, as a terminal's Ctrl-C or a
// notebook server would. One that made a group or session of its own is left alone.
void signal_children(int number);

}  // namespace ddipp::engine
