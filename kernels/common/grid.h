// The barrier of all blocks of a cooperative launch.
#pragma once

#include "common.h"

#ifdef __CUDACC__
#include <cooperative_groups.h>
X2CT_DEVICE void grid_sync() { cooperative_groups::this_grid().sync(); }
#endif  // the host's stands in host.h
