// How often the kernel has killed for want of memory.
#pragma once

namespace ddipp::engine {

// In this process's control group where that counts, else on this machine; 0 when neither is known.
// A change between two calls says that the OOM killer struck in between (cgroup-v2, memory.events;
// /proc/vmstat).
long oom_kills();

}  // namespace ddipp::engine
