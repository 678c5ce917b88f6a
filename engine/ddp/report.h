/* What libddipp_torch tells the engine's io thread. Plain C: the two are built apart, and the engine
   must not need torch. */
#ifndef DDIPP_ENGINE_DDP_REPORT_H
#define DDIPP_ENGINE_DDP_REPORT_H

#include <stdint.h>

typedef struct DdippTorchReport {
  uint64_t collectives; /* started in this generation, without send and recv */
  /* All up to this number have finished; after an abort: had finished then. NCCL: were enqueued. */
  uint64_t finished;
  int aborting;         /* aborts of groups that have not returned */
  /* The oldest unfinished collective, else the last one; name is "" when there was none. */
  char name[64];
  uint64_t number;    /* counts from 1; 0 for send and recv */
  int64_t elements;   /* of all its tensors */
  int waiting;        /* 1: not finished (NCCL: not enqueued) */
  double age_seconds; /* since it began, if waiting; else since it ended */
} DdippTorchReport;

#endif
