/* What every operation of TensorFlow needs: a call with its inputs and checks, and the registration of its kernels. */
#ifndef SPARSE_OPERATION_H
#define SPARSE_OPERATION_H

#include "tensorflow.h"

enum { MOST_INPUTS = 8 };

/* A call: its inputs, and the first thing that is wrong with them. */
typedef struct {
  TF_OpKernelContext *context;
  TF_Status *status;
  TF_Tensor *inputs[MOST_INPUTS];
  int count;
} Call;

static inline int fail(Call *call, int code, const char *message) {
  TF_SetStatus(call->status, code, message);
  return 0;
}

static inline int refuse(Call *call, const char *message) { return fail(call, TF_INVALID_ARGUMENT, message); }

static inline int begin(Call *call, TF_OpKernelContext *context, int count) {
  *call = (Call){.context = context, .status = TF_NewStatus()};
  for (int i = 0; i < count; i++, call->count++) {
    TF_GetInput(context, i, &call->inputs[i], call->status);
    if (TF_GetCode(call->status) != TF_OK) return 0;
  }
  return 1;
}

static inline void end(Call *call) {
  if (TF_GetCode(call->status) != TF_OK) TF_OpKernelContext_Failure(call->context, call->status);
  for (int i = 0; i < call->count; i++) TF_DeleteTensor(call->inputs[i]);
  TF_DeleteStatus(call->status);
}

static inline size_t size_of(const TF_Tensor *tensor) {
  return TF_TensorType(tensor) == TF_DOUBLE ? sizeof(double) : sizeof(float);
}

/* An output of the type of the first input; NULL, with the call's status set, where there is no memory. */
static inline TF_Tensor *allocate_output_at(Call *call, int index, const int64_t *shape, int rank) {
  size_t bytes = size_of(call->inputs[0]);
  for (int i = 0; i < rank; i++) bytes *= (size_t)shape[i];
  int type = TF_TensorType(call->inputs[0]);
  TF_Tensor *output = TF_AllocateOutput(call->context, index, type, shape, rank, bytes, call->status);
  return TF_GetCode(call->status) == TF_OK ? output : NULL;
}

/* Number of windows along an axis, and of zeros before it, as TensorFlow defines "SAME" and "VALID". */
static inline int64_t count_windows(int64_t length, int64_t span, int64_t stride, int is_same, int64_t *before) {
  *before = 0;
  if (!is_same) return length < span ? 0 : (length - span) / stride + 1;
  int64_t count = (length + stride - 1) / stride, outside = (count - 1) * stride + span - length;
  if (outside > 0) *before = outside / 2;
  return count;
}

static inline void leave_unknown(TF_ShapeInferenceContext *context, TF_Status *status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

static inline void register_kernel(const char *name, int type, void *(*create)(TF_OpKernelConstruction *),
                                   void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *)) {
  TF_Status *status = TF_NewStatus();
  TF_KernelBuilder *builder = TF_NewKernelBuilder(name, "CPU", create, compute, destroy);
  if (type) TF_KernelBuilder_TypeConstraint(builder, "T", type, status);
  TF_RegisterKernelBuilder(name, builder, status);
  TF_DeleteStatus(status);
}

#endif
