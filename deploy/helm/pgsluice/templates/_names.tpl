{{- define "pgsluice.labels" -}}
app.kubernetes.io/name: pgsluice
app.kubernetes.io/part-of: pgsluice
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "pgsluice.selector" -}}
app.kubernetes.io/name: pgsluice
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The metadata of an object, by a dict: `root`, which is the chart's own `.`; `name`; `namespace`, or none for the release's own.
Names are quoted here and everywhere, for YAML would take one like 2024 for a number. */}}
{{- define "pgsluice.named" -}}
name: {{ .name | quote }}
namespace: {{ .namespace | default .root.Release.Namespace | quote }}
labels:
  {{- include "pgsluice.labels" .root | nindent 2 }}
{{- end }}

{{- define "pgsluice.metadata" -}}
{{- include "pgsluice.named" (dict "root" . "name" .Release.Name) }}
{{- end }}

{{/* The metadata of what lets the adapter kubernetes-secret ask the API of Kubernetes. */}}
{{- define "pgsluice.secretAccess" -}}
{{- include "pgsluice.named" (dict "root" . "name" (printf "%s-secret" .Release.Name)) }}
{{- end }}

{{/* Whether the adapter kubernetes-secret is to be used: "true" or nothing. */}}
{{- define "pgsluice.changesSecrets" -}}
{{- with .Values.kubernetesSecret }}{{ if .secrets }}true{{ end }}{{ end }}
{{- end }}

{{/* The metadata of what lets the target's cluster be looked at. */}}
{{- define "pgsluice.clusterAccess" -}}
{{- include "pgsluice.named" (dict "root" . "name" (printf "%s-cluster" .Release.Name) "namespace" .Values.cnpg.namespace) }}
{{- end }}

{{/* The metadata of what lets its Secrets be read. */}}
{{- define "pgsluice.clusterSecrets" -}}
{{- include "pgsluice.named" (dict "root" . "name" (printf "%s-cluster-secrets" .Release.Name) "namespace" .Values.cnpg.namespace) }}
{{- end }}

{{/* Whether anything else asks the API of Kubernetes, another adapter or the Lease: "true" or nothing. */}}
{{- define "pgsluice.asksKubernetes" -}}
{{- $lease := .Values.lease.name }}
{{- with .Values.kubernetesTraffic }}{{ if or .services .deployments .statefulSets .poolers $lease }}true{{ end }}{{ end }}
{{- end }}
